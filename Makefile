# Precis builds with what it finds: `make` prints what that was.
#
#   make            build/precis
#   make test       unit, ops, parallel, golden, fuzz replay, cli, slurm suites
#   make lint       format, arrows between the rooms, file lengths
#
# Wishes that must be met or the build stops:  MPI=1 CUDA=1 ONEDNN=1   (0: build without, even when it is there; empty: use it when found)
# Also: DEBUG=1 (assertions, -O1), SAN=address,undefined, CUDA_ARCH="80 90a", CC=

CC      ?= cc
BUILD   ?= build
STD     := -std=c11 -D_GNU_SOURCE
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror=implicit-function-declaration
OPT     := $(if $(DEBUG),-O1,-O3 -DNDEBUG) -g
SANFLAG := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
CPPFLAGS += -Isrc -I.
PKGS    := libcjson libpcre2-8 libutf8proc libzstd zlib libxxhash

# ---- probes -----------------------------------------------------------------
H := \#
have = $(shell printf '$(1)' | $(CC) $(2) -x c - -o /dev/null $(3) >/dev/null 2>&1 && echo 1)
FOUND_ONEDNN := $(call have,$(H)include <oneapi/dnnl/dnnl.h>\nint main(void){return dnnl_version()==0;},,-ldnnl)
FOUND_MPI    := $(shell command -v mpicc >/dev/null 2>&1 && echo 1)
FOUND_CUDA   := $(shell command -v nvcc >/dev/null 2>&1 && echo 1)
FOUND_HWLOC  := $(call have,$(H)include <hwloc.h>\nint main(void){return hwloc_get_api_version()==0;},,-lhwloc)
FOUND_OMP    := $(call have,$(H)include <omp.h>\nint main(void){return omp_get_max_threads()==0;},-fopenmp,)
wish = $(if $(filter 0,$($(1))),,$(if $(FOUND_$(1)),1,$(if $(filter 1,$($(1))),$(error $(1)=1 was asked for, but $(1) was not found. Run make deps, or load its module))))
USE_ONEDNN := $(call wish,ONEDNN)
USE_MPI    := $(call wish,MPI)
USE_CUDA   := $(call wish,CUDA)

CPPFLAGS += $(if $(USE_ONEDNN),-DHAVE_ONEDNN) $(if $(USE_MPI),-DHAVE_MPI) $(if $(USE_CUDA),-DHAVE_CUDA) $(if $(FOUND_HWLOC),-DHAVE_HWLOC)
OMP      := $(if $(FOUND_OMP),-fopenmp)
CFLAGS   := $(STD) $(WARN) $(OPT) $(OMP) $(SANFLAG) $(shell pkg-config --cflags $(PKGS)) $(CFLAGS)
LIBS     := $(shell pkg-config --libs $(PKGS)) $(if $(USE_ONEDNN),-ldnnl) $(if $(FOUND_HWLOC),-lhwloc) -lpthread -lm
ifeq ($(USE_MPI),1)
MPI_CFLAGS := $(shell mpicc --showme:compile 2>/dev/null || mpicc -compile_info 2>/dev/null | cut -d' ' -f2-)
MPI_LIBS   := $(shell mpicc --showme:link 2>/dev/null || mpicc -link_info 2>/dev/null | cut -d' ' -f2-)
endif

# ---- sources ----------------------------------------------------------------
SRC  := $(filter-out src/cli/main.c,$(wildcard src/*/*.c)) $(if $(USE_MPI),$(wildcard mpi/comm_mpi.c mpi/launch.c))
OBJ  := $(SRC:%.c=$(BUILD)/%.o)
LIB  := $(BUILD)/libprecis.a

.PHONY: all
all: $(BUILD)/precis

# Kernels for one instruction set live in files named after it; what runs is chosen at run time.
ISA = $(if $(filter %_avx512bf16.c,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mavx2,$(if $(filter %_avx512.c,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mavx2,$(if $(filter %_avx2.c,$<),-mavx2 -mfma -mf16c)))
$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(ISA) $(if $(filter mpi/%,$<),$(MPI_CFLAGS)) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	@rm -f $@
	ar rcs $@ $(OBJ)

$(BUILD)/precis: $(BUILD)/src/cli/main.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $< $(LIB) $(LIBS) $(MPI_LIBS) -o $@

# ---- tests: every tests/*/test_*.c is a program of its own with CUnit ------
UNIT := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/golden/test_*.c))
$(BUILD)/tests/%: tests/%.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(CFLAGS) $(LDFLAGS) -MMD -MP -MF $@.d $< $(LIB) $(LIBS) $(MPI_LIBS) -lcunit -o $@
.PHONY: unit
unit: $(UNIT)
	@set -e; for t in $(UNIT); do $$t; done

-include $(OBJ:.o=.d) $(BUILD)/src/cli/main.d $(UNIT:%=%.d)

.PHONY: clean
clean:
	rm -rf $(BUILD)
