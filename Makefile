# make            build/bootstrap, the program, for this machine
# make run        a conversation with it on embedded data; SAY="victoria" asks one thing
# make test       every test          make soak, make fuzz   longer campaigns
# make bench      start and answers against the least that any program needs; BENCH_RUNS=, PEER=
# make ct         valgrind shows that no branch or address depends on a secret
# make audit      what an auditor counts
#
# ./cross makes both architectures with the same rules: CC and OUT are its to set.

ifeq ($(origin CC),default)
CC := $(if $(shell command -v gcc),gcc,cc)
endif
OUT ?= build
WARN := -Wall -Wextra -Wconversion -Wshadow -Wvla -Werror
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))

# On aarch64 code without PIC is position independent all the same, and gcc's PIC would find the
# stack guard by a table that needs a relocation. All that has a name lies within 1 MB.
PIC := $(if $(filter aarch64 arm64,$(MACHINE)),-fno-pie -mcmodel=tiny,-fPIE)
# clang's -Os is a third larger than gcc's; its -Oz an eighth.
CLANG := $(findstring clang,$(shell $(CC) --version))
# Nothing else is linked, so the calling convention is ours: a first argument, the context of most
# calls, outlives the call on x86_64, as three more registers do. That is 1.2 KB. No call may then
# be the end of a function, as the caller's registers are put back behind it.
OWN_CALLS := $(if $(filter x86_64,$(MACHINE)),-fno-optimize-sibling-calls \
  -fcall-saved-rdi -fcall-saved-r8 -fcall-saved-r9 -fcall-saved-r10)
# Without this gcc aligns each table on x86_64 to 32 bytes.
DATA := $(if $(filter x86_64,$(MACHINE)),-malign-data=abi)
# gcc has -Oz since version 12; the others are what -Os does for speed at the cost of size.
GCC_SIZE := $(shell $(CC) -Oz -E -xc /dev/null >/dev/null 2>&1 && echo -Oz || echo -Os)
SIZE := $(if $(CLANG),-Oz,$(GCC_SIZE) \
  -fno-move-loop-invariants -fno-tree-loop-im -fno-shrink-wrap -fno-caller-saves \
  -fno-jump-tables --param=large-stack-frame=100000 \
  --param=max-jump-thread-duplication-stmts=1 $(DATA) $(OWN_CALLS))
# -fstack-protector-strong would also guard functions that have no array of bytes: 1.7 KB.
CFLAGS_BOOTSTRAP := -std=c11 $(SIZE) $(WARN) -ffreestanding $(PIC) -fstack-protector \
  -mstack-protector-guard=global -fno-asynchronous-unwind-tables -fomit-frame-pointer \
  -ffunction-sections -fdata-sections \
  $(if $(filter x86_64,$(MACHINE)),-fcf-protection=none)
LDFLAGS_BOOTSTRAP := -static-pie -nostdlib -Wl,-z,noexecstack,-T,$(OUT)/skill.ld -Wl,--build-id=
CFLAGS_TEST := -std=c11 -D_GNU_SOURCE -O1 -g $(WARN) $(if $(CLANG),,-Wno-format-truncation) \
  $(SANITIZE)

.SILENT:
.DELETE_ON_ERROR:
.PHONY: all run test bench soak fuzz ct audit clean

all: $(OUT)/bootstrap

# -g, although -s takes away what it adds: clang makes slightly other code with it.
$(OUT)/bootstrap: skill.c $(OUT)/skill.ld
	$(CC) $(CFLAGS_BOOTSTRAP) $(LDFLAGS_BOOTSTRAP)sha1 -g -s -o $@ skill.c

# The same image with symbols, for gdb and addr2line. Its build id is given to it: a linker makes
# one of the whole file, and that of the program is not to depend on what describes it.
READELF := $(firstword $(shell command -v readelf llvm-readelf))
$(OUT)/bootstrap.debug: $(OUT)/bootstrap
	$(CC) $(CFLAGS_BOOTSTRAP) \
	  $(LDFLAGS_BOOTSTRAP)0x$$($(READELF) -n $< | sed -n 's/.*Build ID: *//p') \
	  -g '-ffile-prefix-map=$(CURDIR)=.' -o $@ skill.c

# What runs up to the first GET and the wait for its answer, on x86_64, with the texts that it uses:
# a segment of its own, since the kernel maps up to 64 KB of a segment around each fault. The .text
# without a name is _start.
EARLY := \
  address_number address_of address_v4 arena_alloc arena_keep arena_reset arena_rewind \
  arena_writer connection_drop connection_fill connection_open connection_receive connection_send \
  copy dns_add env_get hex_value http_put http_put_end http_put_host http_put_line_end \
  http_put_origin http_put_start is_alnum is_one_of lambda_ask lambda_init lambda_put_start \
  memcmp memcpy memset os_catch_crashes os_connect os_recv os_send put put_byte put_text put_uint \
  read_byte reader_of reader_peek stage_enter start start_guarded start_prepared \
  str_eq str_find str_from str_is str_is_visible str_of_array str_span str_starts str_to_uint \
  url_origin url_parse wipe writer_of written

# Two segments for code and constants, one for memory that holds nothing in the file. The second
# goes on in the middle of the page where the first ends; that page is mapped twice, so that the
# file has no gap. What a linker adds for dynamic loading goes.
define SKILL_LD
ENTRY(_start)
PHDRS {
  early PT_LOAD FILEHDR PHDRS FLAGS(5);
  code PT_LOAD FLAGS(5);
  data PT_LOAD FLAGS(6);
  stack PT_GNU_STACK FLAGS(6);
}
SECTIONS {
  . = SIZEOF_HEADERS;
  .note.gnu.build-id : { *(.note.gnu.build-id) } :early
  .early : {
    $(foreach name,$(EARLY),*(.text.$(name) .text.$(name).* .rodata.$(name).*)) *(.text)
  } :early
  . = . + CONSTANT(MAXPAGESIZE);
  .text : { *(.rodata*) *(.got .got.plt) *(.text.*) } :code
  . = ALIGN(CONSTANT(MAXPAGESIZE));
  .bss : { *(.bss.__stack_chk_guard) *(.bss.process_memory) *(.bss .bss.*) } :data
  /DISCARD/ : { *(.comment) *(.note*) *(.eh_frame*) }
  /DISCARD/ : { *(.dynamic) *(.dynsym) *(.dynstr) *(.hash) *(.gnu.hash) }
}
endef
export SKILL_LD
$(OUT)/skill.ld: Makefile
	mkdir -p $(OUT)
	printf '%s\n' "$$SKILL_LD" >$@

$(OUT)/skill_test: skill_test.c skill.c Makefile
	mkdir -p $(OUT)
	$(CC) $(CFLAGS_TEST) -o $@ skill_test.c

export SAY
run: $(OUT)/skill_test $(OUT)/bootstrap
	$(OUT)/skill_test run

test: $(OUT)/skill_test $(OUT)/bootstrap $(OUT)/bootstrap.debug
	$(OUT)/skill_test $(TEST)

# libFuzzer, with AddressSanitizer and UndefinedBehaviorSanitizer.
FUZZ_SECONDS ?= 300
fuzz:
	command -v clang >/dev/null || { echo "make fuzz needs clang and its runtime library"; exit 1; }
	mkdir -p build/corpus
	clang -std=c11 -D_GNU_SOURCE -O1 -g -DFUZZ -fsanitize=fuzzer,address,undefined \
	  -fno-sanitize-recover=undefined -o build/fuzz skill_test.c
	cd build && ./fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=20 corpus >fuzz.log 2>&1 || \
	  { tail -n 40 fuzz.log; exit 1; }

# The tests' program with the product's flags, but for the stack guard and the calling convention,
# which libc would have to know, and the least that any bootstrap does.
CFLAGS_HOSTED := $(filter-out -fstack-protector -mstack-protector-guard=global $(OWN_CALLS) \
  $(filter-out -fPIE,$(PIC)),\
  $(CFLAGS_BOOTSTRAP)) -Wno-unused -D_GNU_SOURCE $(if $(CLANG),,-Wno-format-truncation)
$(OUT)/bench: skill_test.c skill.c Makefile
	mkdir -p $(OUT)
	$(CC) $(CFLAGS_HOSTED) -o $@ skill_test.c

$(OUT)/floor: skill_test.c
	mkdir -p $(OUT)
	$(CC) -std=c11 -Os $(WARN) -DFLOOR -ffreestanding -fno-pie -static -nostdlib -s \
	  -fno-stack-protector -fno-asynchronous-unwind-tables -fno-builtin \
	  -Wl,--build-id=none,-z,noseparate-code -o $@ skill_test.c

export BENCH_RUNS PEER
bench: $(OUT)/bench $(OUT)/floor $(OUT)/bootstrap
	$(OUT)/bench bench

# No branch and no address depends on a secret. On x86_64 valgrind counts those that do; elsewhere
# two traces of the program under qemu (RUNNER), with other secrets, must be the same. Then the
# machine code of the selections, in the very program that ships: one branch, no conditional move.
OBJDUMP := $(firstword $(shell command -v $(MACHINE)-linux-gnu-objdump) objdump)
TRACED := x25519 p256 chacha20-poly1305 aes-256-gcm hmac
TRACE = $(RUNNER) -d nochain,exec -D $(OUT)/trace $(OUT)/ct trace $(1) $(2) && \
  awk '{ split($$4, pc, "/"); print pc[2] }' $(OUT)/trace | cksum
ct: $(OUT)/bootstrap $(OUT)/bootstrap.debug
	$(CC) $(CFLAGS_HOSTED) -gdwarf-4 -DCT $(if $(RUNNER),-static) -o $(OUT)/ct skill_test.c
ifeq ($(RUNNER),)
	valgrind -q --log-file=$(OUT)/ct.log $(OUT)/ct
else
	[ "$$($(call TRACE,leak,1))" != "$$($(call TRACE,leak,2))" ]
	for name in $(TRACED); do first=$$($(call TRACE,$$name,1)); second=$$($(call TRACE,$$name,2)); \
	  echo "$$name: $$first, $$second"; [ "$$first" = "$$second" ] || exit 1; done
endif
	for name in bootstrap bootstrap.debug; do \
	  $(OBJDUMP:objdump=objcopy) -O binary $(OUT)/$$name $(OUT)/$$name.image; done
	cmp $(OUT)/bootstrap.image $(OUT)/bootstrap.debug.image
	for name in ct_select ct_swap; do $(OBJDUMP) -d --no-show-raw-insn $(OUT)/bootstrap.debug | \
	  awk -v name=$$name '/>:$$/ { on = $$2 ~ "^<" name "(\\.|>)"; found += on } \
	  on && $$2 ~ /^(cmov|set|cs|b\.|cbn?z|tbn?z|j[^m])/ { print "  " $$0; \
	    if ($$2 ~ /^(cmov|set|cs)/) bad = 1; else branches++ } \
	  END { print name ": " branches " branch"; exit bad || found != 1 || branches != 1 }' || \
	  exit 1; done

# Invocations in one process; memory and open files must not grow.
SOAK ?= 200000
soak: $(OUT)/skill_test $(OUT)/bootstrap
	SOAK=$(SOAK) $(OUT)/skill_test ten_thousand

# What an auditor counts. Fails when the list of sections at the head of skill.c and the banners
# disagree, a line is over 100 columns, anything mutable but the two arenas and the stack guard is
# at file scope, or the top level holds a file that does not belong there.
audit: $(OUT)/bootstrap $(OUT)/bootstrap.debug
	sed -n '/^ \* Sections/,/^ \*\//s/^ \*  *\([0-9][0-9]* .*\)/\1/p' skill.c >$(OUT)/listed
	awk '/^ \* [0-9]+ / && last ~ /^\/\* -----/ { sub(/^ \* /, ""); print } { last = $$0 }' \
	  skill.c >$(OUT)/banners
	cmp $(OUT)/listed $(OUT)/banners
	awk '/^ \* [0-9]+ / && last ~ /^\/\* -----/ { if (name) print NR - start, name; \
	  name = substr($$0, 4); start = NR } { last = $$0 } \
	  END { print NR - start, name; print NR, "skill.c" }' skill.c | \
	  awk '{ printf "%6d lines  %s\n", $$1, substr($$0, length($$1) + 2) }'
	awk 'FNR == 1 { name = "" } /^[a-z_].*\(/ { name = $$0; start = FNR } \
	  /^}/ && name { print FNR - start + 1, FILENAME, name; name = "" }' skill.c | \
	  sort -rn | head -5 | sed -E 's/^([0-9]+) [^ ]+ (static )?/    \1 lines  /'
	nm $(OUT)/bootstrap.debug | awk '$$2 ~ /[bBdDcC]/ { print "mutable      ", $$3; \
	  if ($$3 !~ /^(process_memory|invocation_memory|__stack_chk_guard)$$/) bad = 1 } \
	  END { exit bad }'
	for file in build/*/bootstrap $(OUT)/bootstrap; do \
	  [ ! -f $$file ] || printf '%6d bytes  %s\n' $$(wc -c <$$file) $$file; done
	awk 'length > 100 { print FILENAME ":" FNR ": over 100 columns"; bad = 1 } END { exit bad }' \
	  skill.c skill_test.c Makefile cross README.md .ci/run
	! ls | grep -vxE 'skill\.c|skill_test\.c|Makefile|cross|README\.md|build'

clean:
	rm -rf build
