# Precis builds with what it finds: `make` prints what that was.
#
#   make            build/precis
#   make test       sets up what is missing, then all suites; the last line is `N passed, N failed, N skipped`
#   make lint       format, arrows between the rooms, file lengths; make format mends the first
#   make demo       the whole line on a real book with a real model; MODEL=path for another model
#   make deps       installs what is missing (as root on Debian or Ubuntu; otherwise says what to install or load)
#   make install    DESTDIR= PREFIX=/usr/local
#   make test-cuda  the GPU against the CPU, on a machine with a GPU
#   make bench | fuzz-replay | unit | clean
#
# Wishes that must be met or the build stops:  MPI=1 CUDA=1 NCCL=1 ONEDNN=1   (0: build without, even when it is there; empty: use it when found)
# Also: V=1 (show commands), DEBUG=1 (assertions, -O1), SAN=address,undefined, CUDA_ARCH="80 90a", NCCL_HOME= (holds include/nccl.h), BUILD=dir, CC=

VERSION := 0.1.0
CC      ?= cc
NVCC    ?= nvcc
BUILD   ?= build
PREFIX  ?= /usr/local
STD     := -std=c11 -D_GNU_SOURCE
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror=implicit-function-declaration
OPT     := $(if $(DEBUG),-O1,-O3 -DNDEBUG) -g
SANFLAG := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
CPPFLAGS += -Isrc -I. -I$(BUILD)/gen
PKGS    := libcjson libpcre2-8 libutf8proc libzstd zlib libxxhash
Q       := $(if $(V),,@)
comma_  := ,

# ---- probes -----------------------------------------------------------------
H := \#
have = $(shell printf '$(1)' | $(CC) $(2) -x c - -o /dev/null $(3) >/dev/null 2>&1 && echo 1)
FOUND_ONEDNN := $(call have,$(H)include <oneapi/dnnl/dnnl.h>\nint main(void){return dnnl_version()==0;},,-ldnnl)
FOUND_MPI    := $(shell command -v mpicc >/dev/null 2>&1 && echo 1)
FOUND_CUDA   := $(if $(wildcard cuda/*.cu),$(shell command -v $(NVCC) >/dev/null 2>&1 && echo 1))
FOUND_HWLOC  := $(call have,$(H)include <hwloc.h>\nint main(void){return hwloc_get_api_version()==0;},,-lhwloc)
FOUND_OMP    := $(call have,$(H)include <omp.h>\nint main(void){return omp_get_max_threads()==0;},-fopenmp,)
MISSING      := $(strip $(foreach p,$(PKGS),$(shell pkg-config --exists $(p) 2>/dev/null || echo $(p))))
wish = $(if $(filter 0,$($(1))),,$(if $(FOUND_$(1)),1,$(if $(filter 1,$($(1))),$(error $(1)=1 was asked for, but $(1) was not found. Run make deps, or load its module))))
USE_ONEDNN := $(call wish,ONEDNN)
USE_MPI    := $(call wish,MPI)
USE_CUDA   := $(call wish,CUDA)

CPPFLAGS += $(if $(USE_ONEDNN),-DHAVE_ONEDNN) $(if $(USE_MPI),-DHAVE_MPI) $(if $(USE_CUDA),-DHAVE_CUDA) $(if $(FOUND_HWLOC),-DHAVE_HWLOC)
OMP      := $(if $(FOUND_OMP),-fopenmp)
CFLAGS   := $(STD) $(WARN) $(OPT) $(OMP) $(SANFLAG) $(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(CFLAGS)
LIBS     := $(shell pkg-config --libs $(PKGS) 2>/dev/null) $(if $(USE_ONEDNN),-ldnnl) $(if $(FOUND_HWLOC),-lhwloc) -lpthread -lm
ifeq ($(USE_MPI),1)
MPI_CFLAGS := $(shell mpicc --showme:compile 2>/dev/null || mpicc -compile_info 2>/dev/null | cut -d' ' -f2-)
MPI_LIBS   := $(shell mpicc --showme:link 2>/dev/null || mpicc -link_info 2>/dev/null | cut -d' ' -f2-)
MPI_NAME   := $(shell mpirun --version 2>/dev/null | head -n 1)
endif
ifeq ($(USE_CUDA),1)
CUDA_HOME  ?= $(patsubst %/bin/,%,$(dir $(realpath $(shell command -v $(NVCC)))))
CUDA_ARCH  ?= 80 90a
CUDA_NAME  := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
NCCL_HOME  ?= $(patsubst %/include/nccl.h,%,$(firstword $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h)))
FOUND_NCCL := $(if $(USE_MPI),$(if $(NCCL_HOME),$(if $(wildcard $(NCCL_HOME)/include/nccl.h),1)))
USE_NCCL   := $(call wish,NCCL)
GENCODE    := $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_$(firstword $(CUDA_ARCH)),code=compute_$(firstword $(CUDA_ARCH))
NVCCFLAGS  := -std=c++17 -O3 -lineinfo $(GENCODE) -Xcompiler -Wall,-Wextra,-Wno-unused-parameter $(if $(DEBUG),,-DNDEBUG)
CPPFLAGS   += $(if $(USE_NCCL),-DHAVE_NCCL)
CUDA_INC   := -I$(CUDA_HOME)/include $(if $(USE_NCCL),-I$(NCCL_HOME)/include)
NCCL_LIBS  := $(if $(USE_NCCL),$(if $(wildcard $(NCCL_HOME)/lib/libnccl.so*),-L$(NCCL_HOME)/lib -Wl$(comma_)-rpath$(comma_)$(NCCL_HOME)/lib) -l:libnccl.so.2)
CUDA_LIBS  := -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt $(NCCL_LIBS) -lcudart -lstdc++
endif

ifeq ($(NCCL)/$(USE_CUDA),1/)
$(error NCCL=1 was asked for, but there is no CUDA build to use it. Make CUDA found, or leave NCCL=1 out)
endif

# ---- sources ----------------------------------------------------------------
MPI_SRC := $(filter-out mpi/comm_nccl.c,$(wildcard mpi/*.c)) $(if $(USE_NCCL),mpi/comm_nccl.c)
SRC  := $(filter-out src/cli/main.c src/cli/spin.c,$(wildcard src/*/*.c)) $(if $(USE_MPI),$(MPI_SRC))
OBJ  := $(SRC:%.c=$(BUILD)/%.o) $(if $(USE_CUDA),$(patsubst %.cu,$(BUILD)/%.o,$(wildcard cuda/*.cu)))
LIB  := $(BUILD)/libprecis.a
LINK  = $(LIB) $(LIBS) $(MPI_LIBS) $(CUDA_LIBS)

.PHONY: all
all: $(BUILD)/precis
	@echo "$(BUILD)/precis: MPI $(if $(USE_MPI),yes,no), oneDNN $(if $(USE_ONEDNN),yes,no), CUDA $(or $(CUDA_NAME),no), NCCL $(if $(USE_NCCL),yes,no), OpenMP $(if $(OMP),yes,no), hwloc $(if $(FOUND_HWLOC),yes,no)"

# What was compiled in: rewritten when it changes, so that objects made with other flags are made again.
GEN := $(BUILD)/gen/version.h $(BUILD)/gen/flags
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo no git)
define VERSION_H
/* Made by the Makefile. */
#define PRECIS_VERSION "$(VERSION)"
#define PRECIS_COMMIT "$(COMMIT)"
#define PRECIS_MPI "$(MPI_NAME)"
#define PRECIS_CUDA "$(CUDA_NAME), code for $(CUDA_ARCH)$(if $(USE_NCCL),$(comma) NCCL)"
endef
comma := ,
replace = $(if $(MISSING),$(error missing libraries: $(MISSING). Run make deps$(comma) or load their modules and set PKG_CONFIG_PATH))mkdir -p $(dir $(1)) && printf '%s\n' '$(subst $(newline),' ',$(2))' > $(1).new && { cmp -s $(1).new $(1) && rm $(1).new || mv $(1).new $(1); }
define newline


endef
.PHONY: always
$(BUILD)/gen/version.h: always
	@$(call replace,$@,$(VERSION_H))
$(BUILD)/gen/flags: always
	@$(call replace,$@,$(CC) $(CPPFLAGS) $(CFLAGS) $(MPI_CFLAGS) $(NVCCFLAGS))

# Kernels for one instruction set live in files named after it; what runs is chosen at run time.
ISA = $(if $(filter %_avx512bf16.c,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mavx2,$(if $(filter %_avx512.c,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mavx2,$(if $(filter %_avx2.c,$<),-mavx2 -mfma -mf16c)))
$(BUILD)/%.o: %.c $(BUILD)/gen/flags | $(BUILD)/gen/version.h
	@mkdir -p $(@D)
	@echo "  cc    $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(ISA) $(if $(filter mpi/%,$<),$(MPI_CFLAGS)) $(if $(filter mpi/comm_nccl.c,$<),$(CUDA_INC)) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.cu $(BUILD)/gen/flags | $(BUILD)/gen/version.h
	@mkdir -p $(@D)
	@echo "  nvcc  $<"
	$(Q)$(NVCC) $(CPPFLAGS) $(NVCCFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	@rm -f $@
	@echo "  ar    $@"
	$(Q)ar rcs $@ $(OBJ)

$(BUILD)/precis: $(BUILD)/src/cli/main.o $(BUILD)/src/cli/spin.o $(LIB)
	@echo "  link  $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(filter %.o,$^) $(LINK) -o $@

# ---- tests: every test_*.c is a program of its own, every fuzz_*.c a parser with its corpus ------
UNIT     := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/golden/test_*.c))
PARALLEL := $(if $(USE_MPI),$(patsubst %.c,$(BUILD)/%,$(wildcard tests/parallel/test_*.c)))
FUZZ     := $(if $(wildcard tests/fuzz/replay.c),$(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c)))
BENCH    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/bench/bench_*.c))
HELPERS  := $(filter-out $(wildcard tests/*/test_*.c tests/fuzz/fuzz_*.c tests/bench/bench_*.c),$(wildcard tests/fuzz/*.c))
$(BUILD)/tests/%: tests/%.c $(HELPERS) $(LIB)
	@mkdir -p $(@D)
	@echo "  link  $@"
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) $(if $(findstring parallel,$<),$(MPI_CFLAGS)) $(LDFLAGS) -MMD -MP -MF $@.d $< $(if $(findstring tests/fuzz,$<),$(HELPERS)) $(LINK) -lcunit -o $@


.PHONY: programs unit fuzz-replay test test-cuda test-run lint format demo deps bench install
programs: all $(UNIT) $(PARALLEL) $(FUZZ)
unit: $(UNIT)
	@tests/run.sh $(UNIT)
fuzz-replay: $(FUZZ)
	@tests/run.sh $(foreach f,$(FUZZ),"$(f) tests/fuzz/corpus/$(patsubst fuzz_%,%,$(notdir $(f)))")

ASAN := $(BUILD)-asan
asan-programs: ; +@$(MAKE) --no-print-directory BUILD=$(ASAN) SAN=address,undefined DEBUG=1 CUDA=0 unit-programs
unit-programs: $(UNIT) $(FUZZ)
.PHONY: asan-programs unit-programs

test: deps
	+@$(MAKE) --no-print-directory test-run
test-run: programs asan-programs
	@MODEL=$${MODEL:-$$(configs/fetch_model.sh || true)} tests/run.sh $(UNIT) $(UNIT:$(BUILD)/%=$(ASAN)/%) \
	  $(foreach f,$(FUZZ) $(FUZZ:$(BUILD)/%=$(ASAN)/%),"$(f) tests/fuzz/corpus/$(patsubst fuzz_%,%,$(notdir $(f)))") \
	  $(if $(PARALLEL),"tests/parallel/run.sh $(PARALLEL)") \
	  $(foreach s,$(filter-out tests/parallel/run.sh tests/bench/run.sh,$(wildcard tests/*/run.sh) $(if $(USE_MPI),tests/parallel/bits.sh tests/parallel/mixed.sh)),"$(s) $(BUILD)/precis")

# On a machine with a GPU; PARTS= takes some of it (tests/cuda.sh).
test-cuda: all $(BUILD)/tests/ops/test_cuda $(filter $(BUILD)/tests/golden/%,$(UNIT)) $(patsubst %,$(BUILD)/tests/unit/test_%,pick identities unigist ppl spill early)
	@tests/cuda.sh $(BUILD)
lint:
	@tests/lint.sh
format:
	clang-format -i $$(git ls-files '*.c' '*.h')
deps:
	@configs/deps.sh
demo: deps
	+@$(MAKE) --no-print-directory all
	@configs/demo/run.sh $(BUILD)/precis $(MODEL)
bench: all $(BENCH)
	@set -e; for b in $(BENCH) $(wildcard tests/bench/run.sh); do $$b; done

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/precis/configs $(DESTDIR)$(PREFIX)/share/precis/jobs $(DESTDIR)$(PREFIX)/share/doc/precis
	install -m 755 $(BUILD)/precis $(DESTDIR)$(PREFIX)/bin/precis
	$(BUILD)/precis help man > $(DESTDIR)$(PREFIX)/share/man/man1/precis.1
	$(BUILD)/precis help completion > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/precis
	install -m 644 $(wildcard configs/*.conf) $(DESTDIR)$(PREFIX)/share/precis/configs
	$(foreach j,$(wildcard jobs/*),install -m 644 $(j) $(DESTDIR)$(PREFIX)/share/precis/jobs;)
	install -m 644 README.md LICENSE CHANGELOG.md $(wildcard ARCHITECTURE.md) $(DESTDIR)$(PREFIX)/share/doc/precis

-include $(OBJ:.o=.d) $(BUILD)/src/cli/main.d $(UNIT:%=%.d) $(PARALLEL:%=%.d) $(FUZZ:%=%.d) $(BENCH:%=%.d)

.PHONY: clean
clean:
	rm -rf $(BUILD) $(ASAN)
