# AiDb: `make help` lists what can be asked for.
#
#   CC=clang                            another compiler
#   CFLAGS='-O0 -g'                     other optimisation; the flags that the code needs are added to it
#   WERROR=                             warnings do not stop the build
#   SANITIZE=address,undefined|thread   under sanitizers, with ASSERT=1, in a build directory of its own
#   ASSERT=1                            with the assertions of src/ and PostgreSQL's headers; the engine's are always on
#   TESTS='test_block types'            only these tests
#   PG_CONFIG=/path/to/pg_config        another PostgreSQL 15
#   DESTDIR=, PREFIX=/usr/local         where `install` puts the engine; the extension goes where PostgreSQL wants it

comma := ,
SANITIZE ?=
ASSERT ?= $(if $(SANITIZE),1)
BUILD ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)),$(if $(ASSERT),/assert))
PREFIX ?= /usr/local
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)

ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
WERROR ?= 1
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(WERROR),-Werror)
SANITIZER := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
COMPILE = $(CC) -std=gnu11 $(CFLAGS) -fPIC -fvisibility=hidden -pthread $(WARNINGS) $(SANITIZER) $(CPPFLAGS)
INCLUDES := -Iengine -Iengine/include
LIBS := -lsnappy -lxxhash -lm
LIBPQ = -Icluster -Icluster/include -isystem /usr/include/libxml2 $(addprefix -isystem ,$(shell $(PG_CONFIG) --includedir 2>/dev/null))
SPEAKS_LIBPQ := cluster/% test/% bench/% fuzz/%

VERSION := 1.0
SONAME := libaidb.so.1
CLIENT_SONAME := libaidb_client.so.1

# Objects and programs stand below $(BUILD) at the path of their source.
object = $(patsubst %.c,$(BUILD)/%.o,$(wildcard $(1)))
program = $(patsubst %.c,$(BUILD)/%,$(wildcard $(1)))
ENGINE_OBJECTS := $(call object,engine/base/*.c engine/host/*.c engine/format/*.c engine/store/*.c engine/db/*.c)
# Of the extension, what is not PostgreSQL's and can be tested alone.
FORMAT_OBJECTS := $(call object,src/replication/*_format.c)
CLUSTER_OBJECTS := $(call object,cluster/placement/*.c cluster/control/*.c cluster/client/*.c cluster/programs/*.c)
# Of it, what programs that use the cluster are linked with.
CLIENT_OBJECTS := $(filter-out %/link.o,$(call object,cluster/client/*.c)) $(call object,cluster/placement/slot.c cluster/placement/slot_set.c)
COORDINATOR := $(BUILD)/aidb_coordinator
COORDINATOR_OBJECTS := $(call object,cluster/coordinator/*.c)
ADMIN := $(BUILD)/aidb-admin
ADMIN_OBJECTS := $(call object,cluster/admin/*.c)
BACKUP_OBJECTS := $(call object,cluster/backup/*.c cluster/object_store/*.c)
SCALING_OBJECTS := $(call object,cluster/scaling/*.c)
STORAGE_LIBS := -lcurl -lxml2 -lcrypto -lzstd
EXPORTER := $(BUILD)/aidb_exporter
EXPORTER_OBJECTS := $(call object,cluster/exporter/*.c)
SUPPORT_OBJECTS := $(call object,test/support/*.c)
TEST_PROGRAMS := $(call program,test/unit/test_*.c test/model/*.c)
HISTORY_PROGRAM := $(BUILD)/test/history/history
HISTORY_OBJECTS := $(call object,test/history/*.c)
CHECKER_OBJECTS := $(addprefix $(BUILD)/test/support/,checker.o graph.o history.o)
BENCH_PROGRAMS := $(call program,bench/*.c)
FUZZ_PROGRAMS := $(call program,fuzz/*.c)
DIFFERENTIAL_PROGRAM := $(BUILD)/test/differential/differential
DIFFERENTIAL_OBJECTS := $(call object,test/differential/*.c)
CLIENT_PROGRAM := $(BUILD)/test/client/client
MAN_PAGES := $(addprefix $(BUILD)/man/,aidb-admin.1 aidb_coordinator.8 aidb_exporter.8)
UNITS := $(patsubst systemd/%.in,$(BUILD)/systemd/%,$(wildcard systemd/*.in))
# Also run against a service.
STORAGE_PROGRAM := $(BUILD)/test/unit/test_storage
SERVER_PROGRAMS := $(HISTORY_PROGRAM) $(DIFFERENTIAL_PROGRAM) $(CLIENT_PROGRAM)
PROGRAM_OBJECTS := $(addsuffix .o,$(TEST_PROGRAMS) $(BENCH_PROGRAMS) $(FUZZ_PROGRAMS)) $(HISTORY_OBJECTS) \
	$(DIFFERENTIAL_OBJECTS) $(CLIENT_PROGRAM).o

# Builds for tests only: what tests them on a server makes a copy of it, with them installed.
FOR_TESTS := $(or $(SANITIZE),$(ASSERT))
# PostgreSQL's processes share memory in a way that the thread sanitizer knows nothing of.
NO_SERVER := $(findstring thread,$(SANITIZE))
SERVER_SUITES := $(if $(NO_SERVER),,regress isolation tap $(if $(FOR_TESTS),,sanitized))
SUITES := deps build $(if $(FOR_TESTS),,install) unit model $(SERVER_SUITES)
SUBMAKE = $(MAKE) --no-print-directory
EXTENSION_MAKE = mkdir -p $(BUILD)/extension && $(SUBMAKE) -C $(BUILD)/extension -f $(CURDIR)/extension.mk \
	VPATH=$(CURDIR) with_llvm=no PG_CONFIG=$(PG_CONFIG) CC='$(CC)' AIDB_CFLAGS='$(CFLAGS) $(WARNINGS) \
	$(SANITIZER) $(if $(ASSERT),-DUSE_ASSERT_CHECKING)' AIDB_ENGINE=$(abspath $(BUILD)/libaidb.a)
TEST_RUN = MAKE='$(MAKE)' BUILD='$(BUILD)' PG_CONFIG='$(PG_CONFIG)' TESTS='$(TESTS)' \
	FOR_TESTS='$(FOR_TESTS)' test/run
SOURCES = $(wildcard $(foreach dir,engine/*/ src/ src/*/ cluster/*/ test/*/ bench/ fuzz/ examples/,$(dir)*.c $(dir)*.h))

.DEFAULT_GOAL := help
.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: help deps all engine client extension install uninstall tests check installcheck installcheck-sanitized test soak \
	demo demo-run demo-cluster demo-backup demo-elastic demo-stop bench lint lint-format lint-layers lint-warnings lint-analysis objects format coverage fuzz \
	fuzz-run clean installable needs-server server-copy FORCE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-22s %s\n", $$1, $$2}'

deps: ## install the Debian 12 packages that building and testing need (as root)
	@test/support/deps

# ---- Building ----------------------------------------------------------------------------------------------

all: engine client $(COORDINATOR) $(ADMIN) $(EXPORTER) $(if $(FOR_TESTS),,$(MAN_PAGES) $(UNITS)) $(if $(NO_SERVER),,extension) ## build the engine library, the extension and the cluster's programs

engine: $(BUILD)/libaidb.a $(BUILD)/$(SONAME) $(BUILD)/aidb.pc ## build libaidb.a, libaidb.so.1 and aidb.pc

client: $(BUILD)/libaidb_client.a $(BUILD)/$(CLIENT_SONAME) $(BUILD)/aidb_client.pc ## build the cluster's client library

extension: needs-server $(BUILD)/libaidb.a ## build the PostgreSQL extension
	@+$(EXTENSION_MAKE) all

tests: $(TEST_PROGRAMS) $(SERVER_PROGRAMS) $(COORDINATOR) $(ADMIN) $(EXPORTER) ## build the programs that tests run

# Remembers the command line, so that other flags or another compiler rebuild everything.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILE)' | cmp -s - $@ || echo '$(COMPILE)' >$@

# Where PostgreSQL's programs are, if --bindir does not say otherwise.
$(COORDINATOR_OBJECTS) $(ADMIN_OBJECTS): private CPPFLAGS += -DAIDB_BINDIR='"$(shell $(PG_CONFIG) --bindir 2>/dev/null)"'

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) $(INCLUDES) $(if $(filter test/% fuzz/% src/%,$<),-Itest/support) $(if $(filter test/% fuzz/% src/% cluster/backup/% cluster/scaling/% cluster/admin/%,$<),-Isrc) $(if $(filter $(SPEAKS_LIBPQ),$<),$(LIBPQ)) -MMD -MP -c -o $@ $<

$(BUILD)/libaidb.a: $(ENGINE_OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/$(SONAME): $(ENGINE_OBJECTS)
	$(COMPILE) -shared -Wl,-soname,$(SONAME) $(LDFLAGS) -o $@ $^ $(LIBS)
	@ln -sf $(SONAME) $(BUILD)/libaidb.so

$(BUILD)/libaidb_client.a: $(CLIENT_OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/$(CLIENT_SONAME): $(CLIENT_OBJECTS)
	$(COMPILE) -shared -Wl,-soname,$(CLIENT_SONAME) $(LDFLAGS) -o $@ $^ -lpq
	@ln -sf $(CLIENT_SONAME) $(BUILD)/libaidb_client.so

$(BUILD)/%.pc: $(wildcard engine/*.pc.in cluster/client/*.pc.in) Makefile
	@mkdir -p $(@D)
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' $(filter %/$*.pc.in,$^) >$@

# What a program says of itself is its page. Services are for systemd.
$(BUILD)/man/aidb-admin.1: NAME = show and change a cluster of AiDb servers; back up and restore
$(BUILD)/man/aidb_coordinator.8: NAME = watch the nodes of an AiDb cluster
$(BUILD)/man/aidb_exporter.8: NAME = metrics of AiDb for Prometheus
$(BUILD)/man/%.1: $(BUILD)/%
	@mkdir -p $(@D)
	cluster/man-page $< 1 '$(NAME)' >$@

$(BUILD)/man/%.8: $(BUILD)/%
	@mkdir -p $(@D)
	cluster/man-page $< 8 '$(NAME)' >$@

$(BUILD)/systemd/%: systemd/%.in Makefile
	@mkdir -p $(@D)
	sed 's|@PREFIX@|$(PREFIX)|' $< >$@

# What the programs of the cluster, and their tests, have in common.
$(BUILD)/libaidb_cluster.a: $(CLUSTER_OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(COORDINATOR): $(COORDINATOR_OBJECTS) $(BUILD)/libaidb_stream.a $(BUILD)/libaidb_cluster.a $(BUILD)/libaidb.a
	$(COMPILE) $(LDFLAGS) -o $@ $^ -lpq $(LIBS)

# Backups, and slots that move: the format of the stream is the extension's.
$(BUILD)/libaidb_stream.a: $(BACKUP_OBJECTS) $(SCALING_OBJECTS) $(FORMAT_OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(ADMIN): $(ADMIN_OBJECTS) $(BUILD)/libaidb_stream.a $(BUILD)/libaidb_cluster.a $(BUILD)/libaidb.a
	$(COMPILE) $(LDFLAGS) -o $@ $^ -lpq $(STORAGE_LIBS) $(LIBS)

$(EXPORTER): $(EXPORTER_OBJECTS) $(BUILD)/libaidb_cluster.a
	$(COMPILE) $(LDFLAGS) -o $@ $^ -lmicrohttpd -lpq

$(TEST_PROGRAMS): %: %.o $(SUPPORT_OBJECTS) $(BUILD)/libaidb_stream.a $(BUILD)/libaidb_cluster.a $(BUILD)/libaidb.a
	$(COMPILE) $(LDFLAGS) -o $@ $^ -lcmocka -Wl,--as-needed -lpq $(STORAGE_LIBS) $(LIBS)

$(HISTORY_PROGRAM): $(HISTORY_OBJECTS) $(CHECKER_OBJECTS)
$(DIFFERENTIAL_PROGRAM): $(DIFFERENTIAL_OBJECTS)
$(CLIENT_PROGRAM): $(CLIENT_PROGRAM).o $(BUILD)/libaidb_client.a
$(SERVER_PROGRAMS):
	$(COMPILE) $(LDFLAGS) -o $@ $^ -lpq

# A benchmark of another engine is named after it and linked with it.
$(BENCH_PROGRAMS): %: %.o $(BUILD)/libaidb_cluster.a $(BUILD)/libaidb.a
	$(COMPILE) $(LDFLAGS) -o $@ $^ $(if $(findstring rocksdb,$@),-lrocksdb) $(if $(findstring client,$@),-lpq) $(LIBS)

$(FUZZ_PROGRAMS): %: %.o $(BUILD)/libaidb_stream.a $(BUILD)/libaidb.a
	$(COMPILE) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ -Wl,--as-needed $(STORAGE_LIBS) $(LIBS)

-include $(ENGINE_OBJECTS:.o=.d) $(FORMAT_OBJECTS:.o=.d) $(CLUSTER_OBJECTS:.o=.d) $(BACKUP_OBJECTS:.o=.d) $(SCALING_OBJECTS:.o=.d) $(COORDINATOR_OBJECTS:.o=.d) $(ADMIN_OBJECTS:.o=.d) $(EXPORTER_OBJECTS:.o=.d) $(SUPPORT_OBJECTS:.o=.d) $(PROGRAM_OBJECTS:.o=.d)

# ---- Installing --------------------------------------------------------------------------------------------

install: installable all ## install the extension into PostgreSQL, libraries and programs below PREFIX (as root)
	@+$(EXTENSION_MAKE) install
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 644 $(BUILD)/libaidb.a $(BUILD)/libaidb_client.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/$(SONAME) $(BUILD)/$(CLIENT_SONAME) $(DESTDIR)$(PREFIX)/lib/
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libaidb.so
	ln -sf $(CLIENT_SONAME) $(DESTDIR)$(PREFIX)/lib/libaidb_client.so
	install -m 644 $(BUILD)/aidb.pc $(BUILD)/aidb_client.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(COORDINATOR) $(ADMIN) $(EXPORTER) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 engine/include/aidb.h cluster/include/aidb_client.h $(DESTDIR)$(PREFIX)/include/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 $(filter %.1,$(MAN_PAGES)) $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 $(filter %.8,$(MAN_PAGES)) $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 644 $(UNITS) $(DESTDIR)$(PREFIX)/lib/systemd/system/
	$(if $(DESTDIR),,ldconfig)

uninstall: installable ## remove what install has put there
	@+$(EXTENSION_MAKE) uninstall
	cd $(DESTDIR)$(PREFIX) && rm -f lib/libaidb.a lib/$(SONAME) lib/libaidb.so lib/pkgconfig/aidb.pc include/aidb.h \
		lib/libaidb_client.a lib/$(CLIENT_SONAME) lib/libaidb_client.so lib/pkgconfig/aidb_client.pc include/aidb_client.h \
		bin/aidb_coordinator bin/aidb-admin bin/aidb_exporter \
		$(foreach page,$(notdir $(MAN_PAGES)),share/man/man$(subst .,,$(suffix $(page)))/$(page)) \
		$(addprefix lib/systemd/system/,$(notdir $(UNITS)))

installable:
	@$(if $(FOR_TESTS),echo "a build for tests is not installed: leave SANITIZE and ASSERT away" >&2; exit 1,:)

needs-server:
	@$(if $(NO_SERVER),echo "a server cannot run under the thread sanitizer: use make check" >&2; exit 1,:)

# A copy of the server in the folder COPY with this build of the extension, for test/run.
server-copy: all
	@PG_CONFIG='$(PG_CONFIG)' SANITIZE='$(SANITIZE)' CC='$(CC)' test/support/copy-server '$(COPY)'
	@+$(EXTENSION_MAKE) install PG_CONFIG='$(COPY)/pg_config'

# ---- Testing -----------------------------------------------------------------------------------------------

check: $(TEST_PROGRAMS) ## run the tests that need no server: unit and model
	@+$(TEST_RUN) unit model

installcheck: needs-server $(SERVER_PROGRAMS) $(STORAGE_PROGRAM) $(COORDINATOR) $(ADMIN) $(EXPORTER) ## run SQL, isolation and TAP tests on servers of their own, against what is installed
	@+$(TEST_RUN) regress isolation tap

installcheck-sanitized: ## the same under the address and undefined behaviour sanitizers, in a copy of PostgreSQL
	@+$(SUBMAKE) installcheck SANITIZE=address,undefined

test: ## everything from nothing: deps, build, install, all tests
	@+$(TEST_RUN) $(SUITES)

soak: needs-server $(SERVER_PROGRAMS) $(BUILD)/test/model/test_power_loss ## the long forms of the randomised tests, in chunks; can be stopped and gone on with
	@BUILD='$(BUILD)' PG_CONFIG='$(PG_CONFIG)' test/soak $(CAMPAIGNS)

fuzz: ## fuzz each parser for FUZZ_SECONDS (60), from and into build/fuzz/corpus
	@+$(SUBMAKE) fuzz-run BUILD=build/fuzz CC=clang SANITIZE=fuzzer-no-link,address,undefined

fuzz-run: $(FUZZ_PROGRAMS)
	@test/support/fuzz $(BUILD) $(or $(FUZZ_SECONDS),60) $(FUZZ_PROGRAMS)

coverage: ## line coverage of the engine by its unit and model tests; page in build/coverage/index.html
	@find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	@+$(SUBMAKE) check BUILD=build/coverage CC=gcc CFLAGS='-O1 -g --coverage -fprofile-update=atomic'
	@test/support/coverage build/coverage engine

# ---- Quality -----------------------------------------------------------------------------------------------

lint: lint-format lint-layers lint-warnings lint-analysis ## formatting, layers, names, warnings of gcc and clang, clang-tidy

lint-format:
	@clang-format --dry-run -Werror $(SOURCES)

lint-layers:
	@test/support/check-layers

lint-warnings:
	@+$(SUBMAKE) objects engine BUILD=build/lint-gcc CC=gcc WERROR=1
	@+$(SUBMAKE) objects engine BUILD=build/lint-clang CC=clang WERROR=1
	@test/support/check-symbols build/lint-gcc

lint-analysis:
	@PG_CONFIG=$(PG_CONFIG) test/support/analyse $(filter %.c,$(SOURCES))

objects: $(ENGINE_OBJECTS) $(CLUSTER_OBJECTS) $(BACKUP_OBJECTS) $(COORDINATOR_OBJECTS) $(ADMIN_OBJECTS) $(EXPORTER_OBJECTS) $(SUPPORT_OBJECTS) $(PROGRAM_OBJECTS)
	@+$(EXTENSION_MAKE) objects

format: ## put all C sources into the form that lint asks for
	clang-format -i $(SOURCES)

# ---- Showing -----------------------------------------------------------------------------------------------

bench: $(BENCH_PROGRAMS) ## build and run the benchmarks
	@BUILD='$(BUILD)' PG_CONFIG='$(PG_CONFIG)' bench/run

demo: ## from nothing: deps, install, a server with sample data, shown at work
	@+$(SUBMAKE) deps
	@+$(SUBMAKE) demo-run

# A make of its own, since which pg_config there is shows once the packages are installed.
demo-run: install
	@PG_CONFIG='$(PG_CONFIG)' demo/run

demo-cluster: install ## three groups of three servers: rows spread over them, SQL over all, a failover; removes itself
	@PG_CONFIG='$(PG_CONFIG)' PREFIX='$(PREFIX)' demo/cluster

demo-backup: install ## a server is backed up into an S3-compatible service, destroyed, and restored to the moment before a mistake; removes itself
	@PG_CONFIG='$(PG_CONFIG)' PREFIX='$(PREFIX)' demo/backup

demo-elastic: install ## two groups of servers become three and two again while clients write and read; removes itself
	@PG_CONFIG='$(PG_CONFIG)' PREFIX='$(PREFIX)' demo/elastic

demo-stop: ## stop the demo server and remove its data
	@PG_CONFIG='$(PG_CONFIG)' demo/stop

clean: ## remove all that was built
	rm -rf build
