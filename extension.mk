# The PostgreSQL extension, built by PGXS. The top Makefile calls this file from within its build directory, with
# VPATH at the source tree, AIDB_CFLAGS and AIDB_ENGINE (the engine's archive); PGXS owns the targets all, install,
# uninstall and clean here.

folders := src src/replication cluster/placement cluster/router
sources := $(patsubst $(VPATH)/%,%,$(wildcard $(addprefix $(VPATH)/,$(addsuffix /*.c,$(folders)))))

MODULE_big := aidb
EXTENSION := aidb
DATA := $(patsubst $(VPATH)/%,%,$(wildcard $(VPATH)/aidb--*.sql))
OBJS := $(sources:.c=.o)
# The engine is a part of aidb.so, not something to bind to or to be bound from outside.
SHLIB_LINK := $(AIDB_ENGINE) -Wl,--exclude-libs,$(notdir $(AIDB_ENGINE)) -lsnappy -lxxhash \
	-lpthread -lpq

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PostgreSQL's own flags name gcc's options and forbid declarations after statements; ours are enough, with the two
# that its headers rely on. Callbacks have the signature that the server gives them: unused parameters are normal.
override CFLAGS := -std=gnu11 $(AIDB_CFLAGS) -Wno-unused-parameter -fno-strict-aliasing -fwrapv -fPIC
override CPPFLAGS := -D_GNU_SOURCE -I$(VPATH)/engine/include -I$(VPATH)/src -I$(VPATH)/cluster \
	-isystem $(includedir_server) -isystem $(includedir)

$(shlib): $(AIDB_ENGINE)

objects: $(OBJS)

# Remembers the command line, so that other flags or another compiler rebuild everything.
flags: force
	@echo '$(CC) $(CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS)' >$@

$(OBJS): %.o: %.c flags
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

.PHONY: objects force
-include $(OBJS:.o=.d)
