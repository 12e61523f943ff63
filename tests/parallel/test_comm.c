/* The communicator against values that can be computed by hand, at every rank count the runner gives it, with messages cut into pieces of
 * several sizes. With TEST_LARGE=1 in the environment one broadcast and one gather pass 2^31 bytes (needs 7 GB on two ranks). */
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "parallel.h"

/* PIECES[0] stands for the default. */
static const int64_t PIECES[] = {INT64_MAX, 8, 64, 1000};
enum { N_PIECE = 4 };

static void set_piece(int64_t bytes) {
    if (!strcmp(comm->ops->name, "mpi")) comm_mpi_set_piece(comm, bytes);
}

/* Byte i of what rank r sends in round k. */
static unsigned char byte_of(int r, int64_t i, int k) { return (unsigned char)(i * 31 + r * 7 + k * 13 + (i >> 8)); }

static void fill(unsigned char *p, int64_t n, int r, int k) {
    for (int64_t i = 0; i < n; i++) p[i] = byte_of(r, i, k);
}

static int64_t count_wrong(const unsigned char *p, int64_t n, int r, int k) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) wrong += p[i] != byte_of(r, i, k);
    return wrong;
}

static void test_shape(void) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (size) CU_ASSERT_EQUAL(comm->size, atoi(size));
    CU_ASSERT(comm->rank >= 0 && comm->rank < comm->size);
    CU_ASSERT(comm->node_rank >= 0 && comm->node_rank < comm->node_size && comm->node_size <= comm->size);
    int64_t firsts = comm->node_rank == 0;
    CU_ASSERT_EQUAL(comm->ops->sum_i64(comm, &firsts, 1), ST_OK);
    CU_ASSERT_EQUAL(firsts, comm->n_node);
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK);
}

/* What the environment says about a launcher. Put back afterwards: MPI reads some of these again at its end. */
static void test_launch(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",      "PMI_RANK", "PMI_ID",
                                        "MV2_COMM_WORLD_RANK",  "MPI_LOCALRANKID"};
    char *had[6];
    CU_ASSERT_EQUAL(launch_under_mpi(), !strcmp(comm->ops->name, "mpi"));
    for (int i = 0; i < 6; i++) {
        had[i] = getenv(names[i]) ? mem_strdup(getenv(names[i])) : NULL;
        unsetenv(names[i]);
    }
    CU_ASSERT_FALSE(launch_under_mpi());
    for (int i = 0; i < 6; i++) {
        setenv(names[i], "0", 1);
        CU_ASSERT_TRUE(launch_under_mpi());
        if (had[i])
            setenv(names[i], had[i], 1);
        else
            unsetenv(names[i]);
        if (had[i]) break; /* from here on it stays true */
    }
    for (int i = 0; i < 6; i++) {
        if (had[i]) setenv(names[i], had[i], 1);
        mem_free(had[i]);
    }
    CU_ASSERT(launch_n_cpu() >= 1);
}

static void test_bcast(void) {
    static const int64_t sizes[] = {0, 1, 8, 9, 1000, 70001};
    static unsigned char buf[70001];
    for (int p = 0; p < N_PIECE; p++) {
        set_piece(PIECES[p]);
        for (int root = 0; root < comm->size; root++) {
            for (int s = 0; s < 6; s++) {
                if (PIECES[p] == 8 && sizes[s] > 1000) continue; /* thousands of messages: slow on a busy machine */
                memset(buf, 0xEE, sizeof buf);
                if (comm->rank == root) fill(buf, sizes[s], root, s);
                CU_ASSERT_EQUAL(comm->ops->bcast(comm, root, buf, sizes[s]), ST_OK);
                CU_ASSERT_EQUAL(count_wrong(buf, sizes[s], root, s), 0);
                if (sizes[s] < (int64_t)sizeof buf) CU_ASSERT_EQUAL(buf[sizes[s]], 0xEE);
            }
        }
    }
    set_piece(INT64_MAX);
}

/* Very unequal: nothing, one byte, a little, a lot; where the large one sits changes with k. */
static int64_t unequal(int r, int k) {
    static const int64_t sizes[] = {0, 5000, 1, 0, 333, 17, 64};
    return sizes[(r + k) % 7];
}

static void gather_once(int root /* -1: all */, int k) {
    int64_t each[64], total = 0, at = 0;
    for (int r = 0; r < comm->size; r++) total += each[r] = unequal(r, k);
    int64_t mine = each[comm->rank];
    unsigned char *send, *recv;
    CU_ASSERT_EQUAL(mem_alloc(&send, (size_t)mine + 1, 1, "test"), ST_OK);
    CU_ASSERT_EQUAL(mem_alloc(&recv, (size_t)total + 8, 1, "test"), ST_OK);
    fill(send, mine, comm->rank, k);
    memset(recv, 0xEE, (size_t)total + 8);
    bool receives = root < 0 || root == comm->rank;
    const void *from = mine > 0 ? send : NULL; /* who has nothing may have no memory either */
    status_t st =
        root < 0 ? comm->ops->all_gather(comm, from, recv, each) : comm->ops->gather(comm, root, from, receives ? recv : NULL, each);
    CU_ASSERT_EQUAL(st, ST_OK);
    for (int r = 0; receives && r < comm->size; at += each[r++]) CU_ASSERT_EQUAL(count_wrong(recv + at, each[r], r, k), 0);
    for (int i = 0; i < 8; i++) CU_ASSERT_EQUAL(recv[total + i], 0xEE);
    mem_free(send);
    mem_free(recv);
}

static void test_all_gather(void) {
    for (int p = 0; p < N_PIECE; p++) {
        set_piece(PIECES[p]);
        for (int k = 0; k < (PIECES[p] == 8 ? 2 : 7); k++) gather_once(-1, k);
    }
    set_piece(INT64_MAX);
}

static void test_gather(void) {
    for (int p = 0; p < N_PIECE; p++) {
        set_piece(PIECES[p]);
        for (int root = 0; root < comm->size; root++) gather_once(root, root + p);
    }
    set_piece(INT64_MAX);
}

/* What rank a sends to b in exchange k, part i: shapes differ with all of them, and some are empty. */
static comm_part_t part_of(int a, int b, int k, int i) {
    comm_part_t p = {.count = (a + 2 * b + k + i) % 4, .bytes = (a * 5 + b * 3 + k * 7 + i) % 3 ? 1 + (a + b + k) * 37 % 300 : 0};
    p.stride = p.bytes + (a + i) % 3 * 11;
    return p;
}

enum { N_EXCHANGE = 5, N_PART = 3, PART_MAX = 4 * 340 };

/* All exchanges are under way at once; every rank talks to every other. */
static void exchanges_once(void) {
    static unsigned char out[N_EXCHANGE][8][N_PART][PART_MAX], in[N_EXCHANGE][8][N_PART][PART_MAX];
    comm_exchange_t *under_way[N_EXCHANGE];
    int64_t before = comm->sent_bytes, sent = 0, wrong = 0;
    memset(in, 0xEE, sizeof in);
    for (int k = 0; k < N_EXCHANGE; k++) {
        comm_part_t send[8 * N_PART], recv[8 * N_PART];
        int n = 0;
        for (int i = 0; i < N_PART; i++)
            for (int r = 0; r < comm->size; r++) {
                if (r == comm->rank) continue;
                send[n] = part_of(comm->rank, r, k, i);
                recv[n] = part_of(r, comm->rank, k, i);
                send[n].stride = send[n].bytes + 5; /* the two sides may lie differently */
                send[n].peer = recv[n].peer = r;
                send[n].p = out[k][r][i];
                recv[n].p = in[k][r][i];
                for (int64_t b = 0; b < send[n].count; b++)
                    fill(out[k][r][i] + b * send[n].stride, send[n].bytes, comm->rank * 8 + r, k * 50 + i * 10 + (int)b);
                sent += send[n].count * send[n].bytes;
                n++;
            }
        CU_ASSERT_EQUAL(comm->ops->exchange_start(comm, send, n, recv, n, &under_way[k]), ST_OK);
        comm->ops->exchange_poke(comm);
    }
    for (int k = N_EXCHANGE - 1; k >= 0; k--) CU_ASSERT_EQUAL(comm->ops->exchange_wait(comm, under_way[k]), ST_OK);
    for (int k = 0; k < N_EXCHANGE; k++)
        for (int r = 0; r < comm->size; r++)
            for (int i = 0; i < N_PART; i++) {
                comm_part_t p = part_of(r, comm->rank, k, i);
                for (int64_t at = 0; at < PART_MAX && r != comm->rank; at++) { /* blocks arrived, and nothing between them was touched */
                    bool any = p.count > 0 && p.bytes > 0;
                    int64_t b = any ? at / p.stride : 0, in_block = any ? at % p.stride : 0;
                    bool inside = any && b < p.count && in_block < p.bytes;
                    unsigned char want = inside ? byte_of(r * 8 + comm->rank, in_block, k * 50 + i * 10 + (int)b) : 0xEE;
                    wrong += in[k][r][i][at] != want;
                }
            }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(comm->sent_bytes - before, sent);
}

static void test_exchange(void) {
    comm_exchange_t *none = (comm_exchange_t *)&none;
    CU_ASSERT_EQUAL(comm->ops->exchange_start(comm, NULL, 0, NULL, 0, &none), ST_OK);
    CU_ASSERT_EQUAL(comm->ops->exchange_wait(comm, none), ST_OK);
    for (int p = 0; p < N_PIECE && comm->size <= 8; p++) {
        set_piece(PIECES[p]);
        exchanges_once();
        exchanges_once();
    }
    set_piece(INT64_MAX);
}

static void test_reduce(void) {
    enum { N = 500 };
    int64_t v[N + 1];
    for (int p = 0; p < N_PIECE; p++) {
        set_piece(PIECES[p]);
        for (int n = 0; n <= (PIECES[p] == 8 ? 20 : N); n = n * 5 + 1) {
            for (int i = 0; i <= N; i++) v[i] = i == 0 ? INT64_MIN + comm->rank : (int64_t)((i + comm->rank) % comm->size) << 40;
            CU_ASSERT_EQUAL(comm->ops->max_i64(comm, v, n), ST_OK);
            for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(v[i], i == 0 ? INT64_MIN + comm->size - 1 : (int64_t)(comm->size - 1) << 40);
            CU_ASSERT_EQUAL(v[N], (int64_t)((N + comm->rank) % comm->size) << 40);
            for (int i = 0; i < n; i++) v[i] = i - comm->rank;
            CU_ASSERT_EQUAL(comm->ops->sum_i64(comm, v, n), ST_OK);
            for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(v[i], (int64_t)i * comm->size - (int64_t)comm->size * (comm->size - 1) / 2);
        }
    }
    set_piece(INT64_MAX);
}

static void test_sent_bytes(void) {
    int64_t v = 1, each[64], before = comm->sent_bytes;
    unsigned char buf[64 * 10] = {0}, recv[64 * 10];
    for (int r = 0; r < 64; r++) each[r] = 10;
    comm->ops->bcast(comm, 0, buf, 100);
    CU_ASSERT_EQUAL(comm->sent_bytes - before, comm->rank == 0 ? 100 * (comm->size - 1) : 0);
    before = comm->sent_bytes;
    comm->ops->all_gather(comm, buf, recv, each);
    CU_ASSERT_EQUAL(comm->sent_bytes - before, 10 * (comm->size - 1));
    before = comm->sent_bytes;
    comm->ops->gather(comm, 0, buf, recv, each);
    CU_ASSERT_EQUAL(comm->sent_bytes - before, comm->rank == 0 ? 0 : 10);
    before = comm->sent_bytes;
    comm->ops->sum_i64(comm, &v, 1);
    CU_ASSERT_EQUAL(comm->sent_bytes - before, comm->size > 1 ? 8 : 0);
}

/* Who waits for a late rank sleeps: seconds of waiting cost little processor time. */
static void test_waits_asleep(void) {
    comm->ops->barrier(comm);
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    if (comm->rank == 0) usleep(400000);
    double begin = clock_s();
    comm->ops->barrier(comm);
    int64_t v = 0;
    if (comm->rank == 0) usleep(200000);
    comm->ops->bcast(comm, 0, &v, sizeof v);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double cpu = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    if (comm->rank > 0) CU_ASSERT(clock_s() - begin > 0.3);
    CU_ASSERT(cpu < 0.2);
}

static void test_shared_memory(void) {
    enum { N = 10007 };
    int64_t *a = NULL, *b = NULL, *none = &(int64_t){0};
    CU_ASSERT_EQUAL(comm->ops->shared_alloc(comm, N * sizeof *a, &a), ST_OK);
    CU_ASSERT_EQUAL(comm->ops->shared_alloc(comm, 1, &b), ST_OK);
    CU_ASSERT_EQUAL(comm->ops->shared_alloc(comm, 0, &none), ST_OK);
    CU_ASSERT_PTR_NULL(none);
    if (a && b) {
        CU_ASSERT_EQUAL((uintptr_t)a % 64, 0);
        CU_ASSERT_EQUAL((uintptr_t)b % 64, 0);
        for (int round = 0; round < 3; round++) {
            for (int i = comm->node_rank; i < N; i += comm->node_size) a[i] = (int64_t)i * 3 + round;
            CU_ASSERT_EQUAL(comm->ops->node_barrier(comm), ST_OK);
            int64_t wrong = 0;
            for (int i = 0; i < N; i++) wrong += a[i] != (int64_t)i * 3 + round;
            CU_ASSERT_EQUAL(wrong, 0);
            CU_ASSERT_EQUAL(comm->ops->node_barrier(comm), ST_OK);
        }
    }
    comm->ops->shared_free(comm, a);
    comm->ops->shared_free(comm, b);
    comm->ops->shared_free(comm, NULL);
}

/* What cannot be had is refused on every rank, and everything works afterwards. */
static void test_shared_memory_refused(void) {
    void *p = &p;
    if (comm->node_size > 1) {
        CU_ASSERT_EQUAL(comm->ops->shared_alloc(comm, (size_t)1 << 60, &p), ST_FAIL);
        CU_ASSERT_PTR_NULL(p);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "/dev/shm"));
    }
    CU_ASSERT_EQUAL(comm->ops->shared_alloc(comm, SIZE_MAX, &p), ST_FAIL);
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK);
}

/* Every rank sends `each` notes to every rank, itself too. With `polling` it takes in what has come between sends. */
static void exchange_notes(int64_t each, bool polling) {
    int64_t last[64], got = 0, sum = 0, disorder = 0;
    note_t note;
    for (int r = 0; r < 64; r++) last[r] = -1;
    double begin = clock_s();
    for (int64_t i = 0; i < each || got < each * comm->size;) {
        if (i < each) {
            for (int to = 0; to < comm->size; to++)
                CU_ASSERT_EQUAL(comm->ops->note_send(comm, to, (note_t){.kind = NOTE_PROGRESS, .from = -1, .a = i, .b = comm->rank * 1000}),
                                ST_OK);
            i++;
        }
        while ((polling || i == each) && comm->ops->note_poll(comm, &note)) {
            disorder += note.from < 0 || note.from >= comm->size || note.kind != NOTE_PROGRESS || note.b != note.from * 1000;
            if (note.from < 0 || note.from >= comm->size) continue;
            disorder += note.a <= last[note.from]; /* two notes of one sender keep their order */
            last[note.from] = note.a;
            sum += note.a;
            got++;
        }
        if (clock_s() - begin > 30) break; /* lost notes: fail below rather than hang */
    }
    CU_ASSERT_EQUAL(got, each * comm->size);
    CU_ASSERT_EQUAL(disorder, 0);
    CU_ASSERT_EQUAL(sum, each * (each - 1) / 2 * comm->size);
    CU_ASSERT_FALSE(comm->ops->note_poll(comm, &note));
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK);
}

static void test_notes(void) {
    exchange_notes(3000, true);
    exchange_notes(1000, false); /* thousands under way at once */
    exchange_notes(1, false);
}

/* Notes and collectives do not get in each other's way. */
static void test_notes_between_collectives(void) {
    note_t note;
    int64_t got = 0;
    for (int i = 0; i < 100; i++) {
        int64_t v = comm->rank;
        comm->ops->note_send(comm, 0, (note_t){.kind = NOTE_DONE, .a = i});
        CU_ASSERT_EQUAL(comm->ops->max_i64(comm, &v, 1), ST_OK);
        CU_ASSERT_EQUAL(v, comm->size - 1);
        while (comm->rank == 0 && comm->ops->note_poll(comm, &note)) got++;
    }
    double begin = clock_s();
    while (comm->rank == 0 && got < 100 * comm->size && clock_s() - begin < 20) got += comm->ops->note_poll(comm, &note);
    CU_ASSERT_EQUAL(got, comm->rank == 0 ? 100 * comm->size : 0);
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK);
}

static void test_close_drops_notes(void) {
    comm_t *c = NULL;
    if (strcmp(comm->ops->name, "mpi")) return;
    CU_ASSERT_EQUAL(comm_mpi_create(&c), ST_OK);
    if (!c) return;
    for (int i = 0; i < 200; i++) CU_ASSERT_EQUAL(c->ops->note_send(c, i % c->size, (note_t){.kind = NOTE_STOP}), ST_OK);
    size_t before = mem_now_bytes();
    c->ops->close(c);
    CU_ASSERT(mem_now_bytes() < before);
}

static void test_agree(void) {
    int last = comm->size - 1;
    char want[64];
    CU_ASSERT_EQUAL(comm_agree(comm, ST_OK), ST_OK);

    status_t mine = comm->rank == last ? status_fail(ST_INPUT, "corpus.txt: no such file; check the path") : ST_OK;
    CU_ASSERT_EQUAL(comm_agree(comm, mine), ST_INPUT);
    snprintf(want, sizeof want,
             comm->size > 1 ? "rank %d: corpus.txt: no such file; check the path" : "corpus.txt: no such file; check the path", last);
    CU_ASSERT_STRING_EQUAL(status_message(), want);

    mine = status_fail(ST_STOPPED, "stop %d", comm->rank); /* all alike: the lowest rank speaks */
    CU_ASSERT_EQUAL(comm_agree(comm, mine), ST_STOPPED);
    CU_ASSERT_STRING_EQUAL(status_message(), comm->size > 1 ? "rank 0: stop 0" : "stop 0");

    if (comm->size > 1) { /* a failure outranks a stop, though 75 is the larger number */
        mine = comm->rank == 0 ? status_fail(ST_STOPPED, "stopped") : comm->rank == 1 ? status_fail(ST_FAIL, "disk full") : ST_OK;
        CU_ASSERT_EQUAL(comm_agree(comm, mine), ST_FAIL);
        CU_ASSERT_STRING_EQUAL(status_message(), "rank 1: disk full");
    }
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    mine = comm->rank == last ? status_fail(ST_FAIL, "%s", text) : ST_OK;
    CU_ASSERT_EQUAL(comm_agree(comm, mine), ST_FAIL);
    CU_ASSERT(strlen(status_message()) > 1000);
}

/* The collectives of one rank alone: what each call leaves in `log` must not depend on the communicator. */
static size_t trace(comm_t *c, unsigned char log[4096]) {
    size_t n = 0;
    int64_t v[3] = {5, -6, INT64_MAX}, each[1] = {24}, out[3] = {0};
    note_t note;
    log[n++] = (unsigned char)c->ops->bcast(c, 0, v, sizeof v);
    log[n++] = (unsigned char)c->ops->all_gather(c, v, out, each);
    log[n++] = (unsigned char)c->ops->max_i64(c, out, 3);
    log[n++] = (unsigned char)c->ops->sum_i64(c, out, 3);
    memcpy(log + n, out, sizeof out), n += sizeof out;
    memset(out, 0, sizeof out);
    log[n++] = (unsigned char)c->ops->gather(c, 0, v, out, each);
    memcpy(log + n, out, sizeof out), n += sizeof out;
    for (int i = 0; i < 40; i++) c->ops->note_send(c, 0, (note_t){.kind = NOTE_PROGRESS, .from = 99, .a = i, .b = -i});
    while (c->ops->note_poll(c, &note)) memcpy(log + n, &note, sizeof note), n += sizeof note;
    log[n++] = (unsigned char)comm_agree(c, status_fail(ST_USAGE, "--segment 0: too small"));
    memcpy(log + n, status_message(), 22), n += 22;
    int shape[6] = {c->rank, c->size, c->node_rank, c->node_size, c->n_node, (int)c->sent_bytes};
    memcpy(log + n, shape, sizeof shape), n += sizeof shape;
    return n;
}

static void test_self_is_mpi_of_one(void) {
    static unsigned char mpi_log[4096], self_log[4096];
    comm_t *self = NULL, *mpi = NULL;
    CU_ASSERT_EQUAL(comm_self_create(&self), ST_OK);
    if (!self) return;
    size_t n = trace(self, self_log);
    CU_ASSERT(n > 40 * sizeof(note_t)); /* the notes came through */
    self->ops->close(self);
    if (comm->size > 1 || strcmp(comm->ops->name, "mpi")) return;
    CU_ASSERT_EQUAL(comm_mpi_create(&mpi), ST_OK);
    if (!mpi) return;
    CU_ASSERT_EQUAL(trace(mpi, mpi_log), n);
    CU_ASSERT_EQUAL(memcmp(mpi_log, self_log, n), 0);
    mpi->ops->close(mpi);
}

static void test_errors_come_back(void) {
    comm_t *c = NULL;
    if (strcmp(comm->ops->name, "mpi")) return;
    CU_ASSERT_EQUAL(comm_mpi_create(&c), ST_OK);
    if (!c) return;
    int64_t v = 0;
    CU_ASSERT_EQUAL(c->ops->bcast(c, c->size + 3, &v, sizeof v), ST_FAIL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "MPI: broadcast failed: "));
    c->ops->close(c); /* broken: leaves without asking the others */
    CU_ASSERT_EQUAL(comm->ops->barrier(comm), ST_OK);
}

static void test_beyond_2_31_bytes(void) {
    if (!getenv("TEST_LARGE") || comm->size > 2) return;
    int64_t n = ((int64_t)1 << 31) + 12345, each[2] = {n, 77}, total = comm->size == 2 ? n + 77 : n;
    unsigned char *send, *recv;
    CU_ASSERT_EQUAL(mem_alloc(&send, (size_t)n, 1, "test"), ST_OK);
    CU_ASSERT_EQUAL(mem_alloc(&recv, comm->rank == 0 ? (size_t)total : 1, 1, "test"), ST_OK);
    if (send && recv) {
        if (comm->rank == 0) fill(send, n, 0, 1);
        CU_ASSERT_EQUAL(comm->ops->bcast(comm, 0, send, n), ST_OK);
        CU_ASSERT_EQUAL(count_wrong(send, n, 0, 1), 0);
        CU_ASSERT_EQUAL(comm->ops->gather(comm, 0, send, recv, each), ST_OK);
        if (comm->rank == 0) CU_ASSERT_EQUAL(count_wrong(recv, n, 0, 1) + (comm->size == 2 ? count_wrong(recv + n, 77, 0, 1) : 0), 0);
    }
    mem_free(send);
    mem_free(recv);
}

PARALLEL_MAIN("comm", {"shape", test_shape}, {"launch", test_launch}, {"bcast", test_bcast}, {"all_gather", test_all_gather},
              {"gather", test_gather}, {"exchange", test_exchange}, {"reduce", test_reduce}, {"sent_bytes", test_sent_bytes},
              {"waits_asleep", test_waits_asleep}, {"shared_memory", test_shared_memory},
              {"shared_memory_refused", test_shared_memory_refused}, {"notes", test_notes},
              {"notes_between_collectives", test_notes_between_collectives}, {"close_drops_notes", test_close_drops_notes},
              {"agree", test_agree}, {"self_is_mpi_of_one", test_self_is_mpi_of_one}, {"errors_come_back", test_errors_come_back},
              {"beyond_2_31_bytes", test_beyond_2_31_bytes})
