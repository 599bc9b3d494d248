/* skill_test.c: the development program of skill.c, which it includes whole
 *
 *   skill_test               every test; closing line "N passed, N failed, N skipped"
 *   skill_test NAME          the tests whose names contain it
 *   skill_test run           a conversation with the real bootstrap; SAY="victoria" asks one thing
 *   skill_test serve [PORT]  a local Lambda with AWS's invoke endpoint; with --event FILE or --say
 *                            TEXT it hands these over, prints the answers and ends
 *   skill_test model         the voice model for Alexa; `model manifest [ARN]` the skill manifest
 *   skill_test bench         start times, first and warm answers, steps; `make bench` builds for it
 *   skill_test get URL       fetches it with the skill's own client; -v tells each step
 *   skill_test vectors FILE  vectors from outside, one a line, as the README's page on them says
 *
 * BOOTSTRAP names another bootstrap than the one beside this program, RUNNER a program to start it
 * with (qemu-aarch64-static). All traffic but that of `get`, and of `serve` with TFL=live, stays on
 * loopback.
 *
 * Parts, in order: the platform for tests, unit tests by section, the world around the skill (a
 * local Lambda, stand-ins for TfL and the preferences API), end-to-end tests, commands.
 */
#ifdef FLOOR

/* The least that any bootstrap does: a socket to the Runtime API's port, GET next, a POST for each
 * event. It takes a whole event, and a whole answer, from one read, which holds on loopback. */

#ifdef __x86_64__
enum { SYS_read = 0, SYS_write = 1, SYS_socket = 41, SYS_connect = 42, SYS_exit = 60 };
static long floor_call(long n, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(n), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall start\n");
#else
enum { SYS_read = 63, SYS_write = 64, SYS_socket = 198, SYS_connect = 203, SYS_exit = 93 };
static long floor_call(long n, long a, long b, long c)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
__asm__(".globl _start\n_start: mov x0, sp\nb start\n");
#endif

static const char floor_next[] =
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: l\r\n\r\n";
static char floor_event[1 << 14];

/* The port behind the colon of AWS_LAMBDA_RUNTIME_API, in network order. */
static unsigned floor_port(const char *const *env)
{
    static const char name[] = "AWS_LAMBDA_RUNTIME_API=";
    unsigned port = 0;
    for (; *env; env++) {
        const char *at = *env;
        int n = 0;
        while (name[n] && at[n] == name[n])
            n++;
        if (name[n])
            continue;
        while (at[n] && at[n] != ':')
            n++;
        while (at[n] && at[++n])
            port = port * 10 + (unsigned)(at[n] - '0');
    }
    return (port >> 8 & 255) | (port & 255) << 8;
}

/* POST .../invocation/ID/response with the body {}. */
static long floor_answer(char *out, const char *event)
{
    static const char head[] = "POST /2018-06-01/runtime/invocation/", name[] = "Request-Id: ";
    static const char tail[] = "/response HTTP/1.1\r\nHost: l\r\nContent-Length: 2\r\n\r\n{}";
    long n = 0, i;
    for (i = 0; head[i]; i++)
        out[n++] = head[i];
    for (i = 0; name[i] && *event; event++)
        i = *event == name[i] ? i + 1 : 0;
    while (*event > ' ')
        out[n++] = *event++;
    for (i = 0; tail[i]; i++)
        out[n++] = tail[i];
    return n;
}

__attribute__((used, noreturn)) static void start(const long *sp)
{
    static char out[400];
    unsigned to[4] = {2 | floor_port((const char *const *)(sp + sp[0] + 2)) << 16, 0x0100007f, 0,
                      0};
    long s = floor_call(SYS_socket, 2, 1, 0);
    floor_call(SYS_connect, s, (long)to, 16);
    for (;;) {
        floor_call(SYS_write, s, (long)floor_next, sizeof floor_next - 1);
        if (floor_call(SYS_read, s, (long)floor_event, sizeof floor_event - 1) <= 0)
            floor_call(SYS_exit, 0, 0, 0);
        floor_call(SYS_write, s, (long)out, floor_answer(out, floor_event));
        floor_call(SYS_read, s, (long)floor_event, sizeof floor_event - 1);
    }
}

#else

#include <arpa/inet.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <regex.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined CT && defined __x86_64__
#include <valgrind/memcheck.h>
#elif defined CT /* there the program is traced instead */
#define RUNNING_ON_VALGRIND 0
#define VALGRIND_COUNT_ERRORS 0
#define VALGRIND_MAKE_MEM_UNDEFINED(p, n) ((void)(p), (void)(n), 0)
#define VALGRIND_MAKE_MEM_DEFINED(p, n) ((void)(p), (void)(n), 0)
#endif

#define SKILL_TEST
#include "skill.c"

static int passed, failed, skipped; /* checks of the present test, then tests */

static void check_at(const char *file, int at, int good, const char *what)
{
    if (good)
        passed++;
    else
        failed++, fprintf(stderr, "%s:%d: failed: %s\n", file, at, what);
}
#define CHECK(truth) check_at(__FILE__, __LINE__, !!(truth), #truth)

/* ---------------------------------------------------------------------------------------------
 * The hosted platform: section 2 of skill.c on libc, or on a script
 *
 * While script.on is false the functions below are real: sockets without blocking, poll, clocks.
 * While it is true there is no network and no time but what the script holds. Its pieces are what
 * comes in, in their order; a piece that does not go on with THEN_MORE ends a stream, and each
 * connection that succeeds reads the next stream. A stream that runs out behind THEN_MORE is
 * silent. Silence costs the time up to the deadline, a sleep the time asked for. What would hang
 * the program, silence without a deadline, ends in an error and is noted in `faults`, as are a
 * socket closed twice and more bytes sent or logged than there is room for.
 *
 * Wants above skill.c: errno.h, netinet/in.h, poll.h, sys/socket.h, time.h, unistd.h, test.h.
 * ------------------------------------------------------------------------------------------ */

#ifdef __has_feature
#define OS_GUARDED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define OS_GUARDED 1
#else
#define OS_GUARDED 0
#endif

typedef enum { THEN_MORE, THEN_END, THEN_RESET, THEN_SILENCE } script_then;

typedef struct {
    str bytes;
    script_then then;
    i64 delay; /* from the call that waits for it to its first byte */
} script_piece;

typedef struct {
    iz at, end, taken; /* the present piece, the one behind the last, bytes of the present one */
    b32 open;
} script_stream;

/* The file descriptor of stream n is SCRIPT_FD + n. */
#define SCRIPT_ROOTS "/script/roots.pem"

enum { SCRIPT_PIECES = 256, SCRIPT_STREAMS = 64, SCRIPT_ERRORS = 16, SCRIPT_FD = 1000 };

static struct script {
    b32 on;
    b32 early;   /* what comes next has come before it was asked for */
    i64 now;     /* the monotonic clock, ns */
    i64 unix_ms; /* UTC when `now` was zero */
    str roots;   /* the file SCRIPT_ROOTS */
    iz most;     /* bytes that one os_recv may give; 0: as many as fit */

    iz pieces, claimed; /* all of them, and those that connections have been given */
    script_piece piece[SCRIPT_PIECES];
    iz streams;
    script_stream stream[SCRIPT_STREAMS];

    err connect[SCRIPT_ERRORS], send[SCRIPT_ERRORS]; /* results in turn; beyond them, success */
    iz connects, sends, closes;                      /* calls so far */
    address to;                                      /* of the last connect */

    iz copies, ends;         /* calls of os_copy, whose n-th gives id 100 + n, and os_wait_copy */
    iz copy_is, copy_none;   /* the call that returns in the copy, and the one that has none */
    i64 life[SCRIPT_ERRORS]; /* what each os_wait_copy takes, and whose end it tells */
    i32 ended[SCRIPT_ERRORS], status;

    iz logs, faults;
    writer sent, log; /* all that was sent, and logged in `logs` calls */
} script;

/* Forgets all that was and begins at 2026-11-23T08:00:00Z. */
static void script_start(void)
{
    static u8 sent[1 << 19], log[1 << 17];
    script = (struct script){.on = 1, .now = 5000 * SECOND};
    script.unix_ms = 1795420800000 - script.now / MS;
    script.sent = writer_of(sent, countof(sent));
    script.log = writer_of(log, countof(log));
}

static void script_add(str bytes, script_then then)
{
    invariant(script.pieces < SCRIPT_PIECES);
    script.piece[script.pieces++] = (script_piece){bytes, then, 0};
}

static err script_wait(i64 deadline)
{
    script.faults += deadline == FOREVER;
    script.now = script.now < deadline ? deadline : script.now;
    return deadline == FOREVER ? E_NetworkFailure : E_TimedOut;
}

static err script_result(const err *results, iz *calls, i64 deadline)
{
    iz n = (*calls)++;
    err error = n < SCRIPT_ERRORS ? results[n] : E_None;
    return error == E_TimedOut ? script_wait(deadline) : error;
}

static err script_connect(i32 *fd, const address *to, i64 deadline)
{
    script.to = *to;
    err error = script_result(script.connect, &script.connects, deadline);
    if (error)
        return error;
    invariant(script.streams < SCRIPT_STREAMS);
    iz n = script.streams++, end = script.claimed;
    while (end < script.pieces && script.piece[end].then == THEN_MORE)
        end++;
    end += end < script.pieces;
    script.stream[n] = (script_stream){.at = script.claimed, .end = end, .open = 1};
    script.claimed = end;
    *fd = SCRIPT_FD + (i32)n;
    return E_None;
}

static iz script_recv(script_stream *s, u8 *buf, iz cap, i64 deadline, err *error)
{
    for (; s->at < s->end; s->at++, s->taken = 0) {
        script_piece *p = &script.piece[s->at];
        iz left = p->bytes.len - s->taken, n = left < cap ? left : cap;
        if (p->delay && deadline != FOREVER && script.now + p->delay > deadline)
            break;
        script.now += p->delay;
        p->delay = 0;
        n = script.most && n > script.most ? script.most : n;
        copy(buf, p->bytes.ptr + s->taken, n);
        s->taken += n;
        if (n || p->then == THEN_END)
            return n;
        if (p->then == THEN_RESET)
            return *error = E_ConnectionReset, -1;
        if (p->then == THEN_SILENCE)
            break;
    }
    *error = script_wait(deadline);
    return -1;
}

/* The tests of section 9 have a platform of their own, further down, which answers while this is
 * set. */
static b32 fake_on;
static i64 fake_monotonic(void);
static void fake_random(u8 *out, iz n);
static err fake_connect(i32 *fd, const address *to, b32 udp, i64 deadline);
static err fake_send(i32 fd, str data, i64 deadline);
static iz fake_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error);
static void fake_close(i32 fd);
static str fake_map(const char *path);
static void fake_unmap(str file);

/* What `get` wants of a connect: another address for a host, and to be told. */
static struct {
    b32 keep_maps; /* os_unmap leaves files where they are, so that the root can be told */
    b32 tell;
    i64 start, last;
} get_state;

static void get_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void get_tell_address(const address *to, b32 datagram, err error);

/* What the benchmark wants of the platform's calls. */
static void bench_told_map(void);
static void bench_told_connect(b32 datagram, b32 after, i32 fd);
static void bench_told_send(i32 fd);
static void bench_told_recv(i32 fd, b32 after);
static iz bench_told_room(i32 fd, iz cap);

static i64 os_clock(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static i64 os_monotonic(void)
{
    return fake_on ? fake_monotonic() : script.on ? script.now : os_clock(CLOCK_MONOTONIC);
}

static i64 os_unix_ms(void)
{
    return script.on ? script.unix_ms + script.now / MS : os_clock(CLOCK_REALTIME) / MS;
}

static void os_sleep(i64 until)
{
    struct timespec t = {until / SECOND, until % SECOND};
    if (script.on)
        script.now = script.now < until ? until : script.now;
    while (!script.on && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == EINTR)
        ;
}

static void os_random(u8 *out, iz n)
{
    if (fake_on)
        fake_random(out, n);
    else if (getrandom(out, (size_t)n, 0) != n)
        abort();
}

static b32 os_cpu_aes(const char *const *env)
{
    (void)env;
#ifdef __aarch64__
    return (getauxval(AT_HWCAP) & 0x18) == 0x18; /* HWCAP_AES, HWCAP_PMULL */
#else
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#endif
}

/* While the script is on there is one file: the roots that it holds. */
static str os_map(const char *path)
{
    str file = {0, 0};
    struct stat st;
    if (fake_on)
        return fake_map(path);
    if (script.on)
        return !strcmp(path, SCRIPT_ROOTS) ? script.roots : file;
    bench_told_map();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !fstat(fd, &st) && st.st_size) {
        void *at = mmap(0, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at != MAP_FAILED)
            file = (str){at, st.st_size};
    }
    if (fd >= 0)
        close(fd);
    return file;
}

static void os_unmap(str file)
{
    if (fake_on)
        fake_unmap(file);
    else if (!script.on && file.len && !get_state.keep_maps)
        munmap((void *)(uz)file.ptr, (size_t)file.len);
}

static err os_error(int number)
{
    return number == ECONNREFUSED                            ? E_ConnectRefused
           : number == ECONNRESET || number == EPIPE         ? E_ConnectionReset
           : number == ETIMEDOUT                             ? E_TimedOut
           : number == EHOSTUNREACH || number == ENETUNREACH ? E_Unreachable
                                                             : E_NetworkFailure;
}

static err os_wait(i32 fd, short events, i64 deadline)
{
    struct pollfd p = {fd, events, 0};
    i64 left = deadline == FOREVER ? 0 : deadline - os_monotonic();
    struct timespec t = {left > 0 ? left / SECOND : 0, left > 0 ? left % SECOND : 0};
    int n = ppoll(&p, 1, deadline == FOREVER ? 0 : &t, 0);
    return n > 0 ? E_None : n ? os_error(errno) : E_TimedOut;
}

static err os_connect(i32 *fd, const address *to, b32 datagram, i64 deadline)
{
    if (fake_on)
        return fake_connect(fd, to, datagram, deadline);
    if (script.on)
        return script_connect(fd, to, deadline);
    bench_told_connect(datagram, 0, -1);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
    memcpy(&v4.sin_addr, to->ip, 4);
    memcpy(&v6.sin6_addr, to->ip, 16);
    int type = (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int s = socket(to->v6 ? AF_INET6 : AF_INET, type, 0);
    int failure = 0;
    socklen_t size = sizeof failure;
    if (connect(s, to->v6 ? (void *)&v6 : (void *)&v4, to->v6 ? sizeof v6 : sizeof v4))
        failure = errno;
    err error = failure == EINPROGRESS ? os_wait(s, POLLOUT, deadline) : E_None;
    if (failure == EINPROGRESS)
        getsockopt(s, SOL_SOCKET, SO_ERROR, &failure, &size);
    if (!error && failure)
        error = os_error(failure);
    get_tell_address(to, datagram, error);
    if (error)
        close(s);
    else
        *fd = s;
    bench_told_connect(datagram, 1, s);
    return error;
}

static err os_send(i32 fd, str data, i64 deadline)
{
    if (fake_on)
        return fake_send(fd, data, deadline);
    err error = script.on ? script_result(script.send, &script.sends, deadline) : E_None;
    if (script.on && !error)
        put(&script.sent, data), script.faults += script.sent.error != E_None;
    while (!script.on && data.len && !error) {
        error = os_wait(fd, POLLOUT, deadline);
        ssize_t n = error ? 0 : send(fd, data.ptr, (size_t)data.len, MSG_NOSIGNAL);
        error = n < 0 ? os_error(errno) : error;
        data = str_from(data, n < 0 ? 0 : n);
    }
    if (!script.on)
        bench_told_send(fd);
    return error;
}

static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error)
{
    if (fake_on)
        return fake_recv(fd, buf, cap, deadline, error);
    if (script.on && !deadline && !script.early) { /* a look whether anything is there: not yet */
        *error = E_TimedOut;
        return -1;
    }
    if (script.on)
        return script_recv(&script.stream[fd - SCRIPT_FD], buf, cap, deadline, error);
    bench_told_recv(fd, 0);
    cap = bench_told_room(fd, cap);
    for (;;) { /* as section 17 does: what is there first, then the deadline */
        ssize_t n = recv(fd, buf, (size_t)cap, deadline == FOREVER ? 0 : MSG_DONTWAIT);
        if (n >= 0) {
            bench_told_recv(fd, 1);
            return n;
        }
        *error = errno == EAGAIN ? os_wait(fd, POLLIN, deadline) : os_error(errno);
        if (*error)
            return -1;
    }
}

static void os_close(i32 fd)
{
    if (fake_on) {
        fake_close(fd);
    } else if (!script.on) {
        close(fd);
    } else {
        script.closes++;
        script.faults += !script.stream[fd - SCRIPT_FD].open;
        script.stream[fd - SCRIPT_FD].open = 0;
    }
}

static i32 os_copy(void)
{
    iz n = ++script.copies;
    invariant(script.on);
    return n == script.copy_is ? 0 : n == script.copy_none ? -1 : (i32)(100 + n);
}

static i32 os_wait_copy(i32 *status)
{
    iz n = script.ends++;
    invariant(script.on && n < SCRIPT_ERRORS);
    script.now += script.life[n];
    *status = script.status;
    return script.ended[n] ? script.ended[n] : -1;
}

static void os_log(str text)
{
    script.logs++;
    if (script.on)
        put(&script.log, text), script.faults += script.log.error != E_None;
    else if (write(2, text.ptr, (size_t)text.len) < 0)
        abort();
}

static void os_catch_crashes(u8 *stack)
{
    (void)stack;
}

void __asan_poison_memory_region(const volatile void *at, size_t n);
void __asan_unpoison_memory_region(const volatile void *at, size_t n);

static iz os_guard(u8 *at, iz room)
{
    iz n = room < ARENA_GAP ? room : ARENA_GAP;
    if (!OS_GUARDED)
        return 0;
    __asan_poison_memory_region(at, (size_t)n);
    return n;
}

static void os_unguard(u8 *from, iz n)
{
    if (OS_GUARDED)
        __asan_unpoison_memory_region(from, (size_t)n);
}

/* ---------------------------------------------------------------------------------------------
 * Unit tests, section by section
 *
 * They run on the script of the hosted platform: no network, no time. What is expected comes from
 * the RFCs, from the contracts of AWS, Alexa and TfL, and from the rules of the skill; the JSON
 * that comes out is judged by a validator that shares nothing with the skill's parser.
 *
 * Wants above skill.c, beside what the platform wants: stdarg.h, stdio.h, stdlib.h, string.h,
 * sys/wait.h.
 * ------------------------------------------------------------------------------------------ */

/* snprintf of which no compiler says that it cuts: that is what it is for. */
__attribute__((format(printf, 3, 4))) static int unit_print(char *to, size_t size,
                                                            const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = vsnprintf(to, size, format, list);
    va_end(list);
    return n;
}

static void unit_check_at(int at, int good, const char *what, const char *row)
{
    char text[512];
    if (good) {
        passed++;
        return;
    }
    unit_print(text, sizeof text, "%s (%s)", what, row);
    for (char *c = text; *c; c++)
        *c = (u8)*c < ' ' ? '~' : *c;
    check_at(__FILE__, at, good, text);
}

/* A check whose failure names the row of a table. */
#define CHECK_ROW(truth, row) unit_check_at(__LINE__, !!(truth), #truth, row)

#define BYTES(literal) (literal), (iz)sizeof(literal) - 1

static str unit_str(const char *text)
{
    return (str){(const u8 *)text, (iz)strlen(text)};
}

static b32 unit_is(str s, const char *text)
{
    return str_eq(s, unit_str(text));
}

static iz unit_index(str s, const char *text, iz from)
{
    iz n = (iz)strlen(text);
    for (iz i = from; i + n <= s.len; i++)
        if (!memcmp(s.ptr + i, text, (size_t)n))
            return i;
    return -1;
}

static b32 unit_has(str s, const char *text)
{
    return unit_index(s, text, 0) >= 0;
}

static iz unit_count(str s, const char *text)
{
    iz count = 0;
    for (iz i = -1; (i = unit_index(s, text, i + 1)) >= 0;)
        count++;
    return count;
}

/* The name of an error, for a message. */
static const char *unit_error(err error)
{
    static char texts[4][40];
    static int turn;
    str sentence, name = err_name(error, &sentence);
    char *text = texts[turn++ % 4];
    unit_print(text, sizeof texts[0], "%.*s", (int)name.len, name.ptr);
    return text;
}

/* xorshift64: the same numbers in each run */
static u64 unit_random(void)
{
    static u64 state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* The arena of an invocation, as large as the program's, empty again with each call. */
static arena *unit_arena(void)
{
    static u8 memory[INVOCATION_BYTES] __attribute__((aligned(16)));
    static arena a;
    if (!a.start)
        a = arena_of(memory, countof(memory));
    arena_reset(&a);
    return &a;
}

/* An arena of n bytes at most, for tests of exhaustion. */
static arena *unit_small_arena(iz n)
{
    static u8 memory[1 << 17] __attribute__((aligned(16)));
    static arena a;
    os_unguard(memory, countof(memory));
    memset(memory, 0, sizeof memory);
    a = arena_of(memory, n);
    return &a;
}

/* ---- an independent reader of JSON: strict, recursive, slow ---- */

typedef struct {
    const u8 *at, *end;
    iz depth;
} strict;

static void strict_space(strict *s)
{
    while (s->at < s->end && strchr(" \t\r\n", *s->at) && *s->at)
        s->at++;
}

/* The length of the UTF-8 sequence at p, by the table of RFC 3629 section 4, or 0. */
static iz strict_utf8(const u8 *p, iz left)
{
    static const struct {
        u8 from, to, second_from, second_to, size;
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (iz i = 0; i < countof(forms); i++) {
        if (*p < forms[i].from || *p > forms[i].to)
            continue;
        if (forms[i].size > left)
            return 0;
        if (forms[i].size > 1 && (p[1] < forms[i].second_from || p[1] > forms[i].second_to))
            return 0;
        for (iz k = 2; k < forms[i].size; k++)
            if (p[k] < 0x80 || p[k] > 0xbf)
                return 0;
        return forms[i].size;
    }
    return 0;
}

static b32 strict_text(str s)
{
    for (iz i = 0, n; i < s.len; i += n)
        if (!(n = strict_utf8(s.ptr + i, s.len - i)))
            return 0;
    return 1;
}

static b32 strict_string(strict *s)
{
    if (s->at == s->end || *s->at++ != '"')
        return 0;
    while (s->at < s->end && *s->at != '"') {
        iz n = strict_utf8(s->at, s->end - s->at);
        if (!n || *s->at < 0x20)
            return 0;
        if (*s->at != '\\') {
            s->at += n;
            continue;
        }
        if (++s->at == s->end || !*s->at || !strchr("\"\\/bfnrtu", *s->at))
            return 0;
        if (*s->at++ == 'u')
            for (int i = 0; i < 4; i++)
                if (s->at == s->end || !*s->at || !strchr("0123456789abcdefABCDEF", *s->at++))
                    return 0;
    }
    return s->at < s->end && *s->at++ == '"';
}

static iz strict_digits(strict *s)
{
    iz n = 0;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; n++)
        s->at++;
    return n;
}

static b32 strict_number(strict *s)
{
    if (s->at < s->end && *s->at == '-')
        s->at++;
    b32 zero = s->at < s->end && *s->at == '0';
    iz n = strict_digits(s);
    if (!n || (zero && n > 1))
        return 0;
    if (s->at < s->end && *s->at == '.' && (s->at++, !strict_digits(s)))
        return 0;
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-'))
            s->at++;
        return strict_digits(s) > 0;
    }
    return 1;
}

static b32 strict_value(strict *s)
{
    strict_space(s);
    if (s->at == s->end)
        return 0;
    u8 open = *s->at, shut = open == '{' ? '}' : ']';
    if (open == '"')
        return strict_string(s);
    if (open != '{' && open != '[') {
        static const char words[][6] = {"true", "false", "null"};
        for (int i = 0; i < 3; i++) {
            iz n = (iz)strlen(words[i]);
            if (s->end - s->at >= n && !memcmp(s->at, words[i], (size_t)n))
                return s->at += n, 1;
        }
        return strict_number(s);
    }
    if (++s->depth > 1000)
        return 0;
    s->at++;
    strict_space(s);
    for (b32 first = 1; s->at < s->end && *s->at != shut; first = 0) {
        if (!first && *s->at++ != ',')
            return 0;
        strict_space(s);
        if (open == '{') {
            if (!strict_string(s))
                return 0;
            strict_space(s);
            if (s->at == s->end || *s->at++ != ':')
                return 0;
        }
        if (!strict_value(s))
            return 0;
        strict_space(s);
    }
    s->depth--;
    return s->at < s->end && *s->at++ == shut;
}

static b32 strict_json(str text)
{
    strict s = {text.ptr, text.ptr + text.len, 0};
    if (!strict_value(&s))
        return 0;
    strict_space(&s);
    return s.at == s.end;
}

/* The raw text of the value at a path such as "response.card.text" in valid JSON; of names that
 * stand twice the first; a null pointer if it is not there. */
static str strict_at(str text, const char *path)
{
    strict s = {text.ptr, text.ptr + text.len, 0};
    while (*path) {
        size_t n = strcspn(path, ".");
        b32 found = 0;
        strict_space(&s);
        if (s.at == s.end || *s.at != '{')
            return (str){0, 0};
        do {
            s.at++;
            strict_space(&s);
            const u8 *name = s.at + 1;
            if (!strict_string(&s))
                return (str){0, 0};
            found = (size_t)(s.at - 1 - name) == n && !memcmp(name, path, n);
            strict_space(&s);
            s.at++;
            if (!found && !strict_value(&s))
                return (str){0, 0};
            strict_space(&s);
        } while (!found && s.at < s.end && *s.at == ',');
        if (!found)
            return (str){0, 0};
        path += n + (path[n] == '.');
    }
    const u8 *start = s.at;
    return strict_value(&s) ? (str){start, s.at - start} : (str){0, 0};
}

/* The same for a string, its escapes undone (all that the skill's writer makes), in static memory
 * of which the last eight results stay good. */
static str strict_string_at(str text, const char *path)
{
    static char results[8][32768];
    static int turn;
    char *out = results[turn++ % 8];
    str raw = strict_at(text, path);
    iz n = 0;
    if (raw.len < 2 || raw.ptr[0] != '"')
        return (str){0, 0};
    for (iz i = 1; i < raw.len - 1; i++) {
        u8 c = raw.ptr[i];
        if (c == '\\') {
            c = raw.ptr[++i];
            if (c == 'u') {
                char hex[5] = {0};
                memcpy(hex, raw.ptr + i + 1, 4);
                c = (u8)strtol(hex, 0, 16);
                i += 4;
            }
        }
        if (n < 32767)
            out[n++] = (char)c;
    }
    return (str){(u8 *)out, n};
}

/* ---- sections 3 and 4: strings, arenas, readers, writers ---- */

static void test_strings_compare(void)
{
    CHECK(str_eq(S(""), S("")) && str_eq(S("ab"), S("ab")));
    CHECK(!str_eq(S("ab"), S("aB")) && !str_eq(S("ab"), S("abc")) && !str_eq(S("abc"), S("ab")));
    CHECK(str_eq((str){0, 0}, S("")));
    CHECK(str_eq_nocase(S("Content-LENGTH"), S("content-length")));
    CHECK(!str_eq_nocase(S("content-length"), S("content-length2")));
    CHECK(!str_eq_nocase(S("@"), S("`")) && !str_eq_nocase(S("["), S("{")));
    CHECK(str_order_nocase(S("Bakerloo"), S("central")) < 0);
    CHECK(str_order_nocase(S("Waterloo"), S("victoria")) > 0);
    CHECK(str_order_nocase(S("abc"), S("AB")) > 0 && str_order_nocase(S("AB"), S("abc")) < 0);
    CHECK(str_order_nocase(S("\xc3"), S("z")) > 0);
    CHECK(str_starts(S("abc"), S("ab")) && str_starts(S("abc"), S("")));
    CHECK(!str_starts(S("ab"), S("abc")) && !str_starts(S("xab"), S("ab")));
    CHECK(str_ends(S("abc"), S("bc")) && !str_ends(S("bc"), S("abc")));
    CHECK(str_find(S("abcb"), 'b') == 1 && str_find(S("abc"), 'x') == -1);
}

static void test_strings_cut(void)
{
    str s = S("a,,b");
    CHECK(unit_is(str_cut(&s, ','), "a") && unit_is(str_cut(&s, ','), ""));
    CHECK(unit_is(str_cut(&s, ','), "b") && !s.len && unit_is(str_cut(&s, ','), ""));
    CHECK(unit_is(str_trim(S(" \t\r\n a b \n")), "a b"));
    CHECK(!str_trim(S("  ")).len && !str_trim(S("")).len);
    CHECK(str_at(S("ab"), -1) == 0 && str_at(S("ab"), 1) == 'b' && str_at(S("ab"), 2) == 0);
    char array[4] = {'a', 'b', 'c', 'd'};
    CHECK(unit_is(T(array), "abcd"));
    array[2] = 0;
    CHECK(unit_is(T(array), "ab"));
}

static void test_strings_numbers(void)
{
    static const struct {
        char text[24];
        u64 max, value;
        int good;
    } rows[] = {
        {"0", 9, 0, 1},
        {"9", 9, 9, 1},
        {"10", 9, 0, 0},
        {"007", 9, 7, 1},
        {"18446744073709551615", ~0ull, ~0ull, 1},
        {"18446744073709551616", ~0ull, 0, 0},
        {"99999999999999999999", ~0ull, 0, 0},
        {"18446744073709551610", ~0ull - 5, ~0ull - 5, 1},
        {"18446744073709551611", ~0ull - 5, 0, 0},
        {"", 9, 0, 0},
        {"+1", 9, 0, 0},
        {"-1", 9, 0, 0},
        {" 1", 9, 0, 0},
        {"1 ", 9, 0, 0},
        {"1.0", 99, 0, 0},
        {"0x1", 99, 0, 0},
        {"1e1", 99, 0, 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u64 value = 77;
        b32 good = str_to_uint(unit_str(rows[i].text), rows[i].max, &value);
        CHECK_ROW(good == rows[i].good && (!good || value == rows[i].value), rows[i].text);
    }
    for (int c = 0; c < 256; c++) {
        int hex = c >= '0' && c <= '9'   ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : -1;
        u8 one[] = {(u8)c};
        CHECK(hex_value((u8)c) == hex);
        CHECK(str_is_visible((str){one, 1}, 1) == (c > 0x20 && c < 0x7f));
    }
    CHECK(!str_is_visible(S(""), 9) && str_is_visible(S("abc"), 3) && !str_is_visible(S("abc"), 2));
}

static void test_strings_environment(void)
{
    const char *env[] = {"AB=1", "A=2=3", "EMPTY=", "NOEQUALS", "A=4", 0};
    CHECK(unit_is(env_get(env, "A"), "2=3") && unit_is(env_get(env, "AB"), "1"));
    CHECK(env_get(env, "EMPTY").ptr && !env_get(env, "EMPTY").len);
    CHECK(!env_get(env, "NOEQUALS").ptr && !env_get(env, "B").ptr);
    CHECK(!env_get(env, "ab").ptr && !env_get(env + 5, "A").ptr);
}

static void test_time_formatting(void)
{
    static const i64 extra[] = {0, 1, 999, 43200000, 86399999};
    for (i64 day = 0; day < 366 * 140; day++)
        for (iz k = 0; k < countof(extra); k++) {
            i64 ms = day * 86400000 + extra[k];
            time_t seconds = (time_t)(ms / 1000);
            struct tm t;
            char expected[64];
            u8 buf[32];
            writer w = writer_of(buf, countof(buf));
            gmtime_r(&seconds, &t);
            if (k && t.tm_mday != 1 && t.tm_mday < 28)
                continue;
            unit_print(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
                       t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec,
                       (int)(ms % 1000));
            put_time(&w, ms);
            if (!unit_is(written(&w), expected))
                CHECK_ROW(0, expected);
            if (days_of_date(t.tm_year + 1900, t.tm_mon + 1, t.tm_mday) != day)
                CHECK_ROW(0, expected);
        }
    u8 buf[32];
    writer w = writer_of(buf, countof(buf));
    put_time(&w, 1709164800000);
    CHECK(unit_is(written(&w), "2024-02-29T00:00:00.000Z"));
}

static void test_arena_allocates(void)
{
    arena *a = unit_small_arena(4096);
    u8 *last = 0;
    iz count = 0;
    for (iz n = 0; n < 100; n++) {
        u8 *p = arena_alloc(a, n);
        if (!p)
            break;
        CHECK(((uz)p & 15) == 0 && (uz)p >= (uz)last);
        for (iz i = 0; i < n; i++)
            if (p[i])
                CHECK(0);
        memset(p, 0xa5, (size_t)n);
        last = p;
        count++;
    }
    CHECK(count > 30 && count < 100);
    CHECK(!arena_alloc(a, 4096) && arena_alloc(a, 0));
    arena_reset(a);
    CHECK(a->at == a->start);
    for (iz i = 0; i < 4096; i++)
        if (a->start[i])
            CHECK(0);
    CHECK(arena_alloc(a, 4096 - ARENA_GAP) != 0);
    arena_reset(a);
    CHECK(!arena_alloc(a, 4097) && !arena_alloc(a, (iz)((uz)~0 >> 1)));
    CHECK(arena_alloc(a, 4096) != 0 && !arena_alloc(a, 1));
    arena_reset(a);
}

/* What a struct is made of must be zero, whatever was written before it and given back. */
static void test_arena_stays_clean(void)
{
    arena *a = unit_small_arena(8192);
    writer w = arena_writer(a, 1000);
    for (int i = 0; i < 1000; i++)
        put_byte(&w, 'x');
    writer_cut(&w, 3);
    writer_cut(&w, 9);
    CHECK(unit_is(arena_keep(a, &w), "xxx"));
    u8 *p = arena_new(a, u8, 900);
    iz dirt = 0;
    for (iz i = 0; i < 900; i++)
        dirt += p[i] != 0;
    CHECK(!dirt);
    arena_reset(a);
    for (iz i = 0; i < 8192; i++)
        dirt += a->start[i] != 0;
    CHECK(!dirt);
}

static void test_arena_writer_gives_back(void)
{
    arena *a = unit_small_arena(4096);
    writer w = arena_writer(a, 1000);
    put(&w, S("abc"));
    str kept = arena_keep(a, &w);
    CHECK(unit_is(kept, "abc") && !w.error);
    CHECK(a->at - a->start <= 3 + ARENA_GAP);
    w = arena_writer(a, 100000);
    CHECK(!w.error && w.cap < 4096);
    while (!w.error)
        put_byte(&w, 'x');
    CHECK(w.error == E_BufferFull && w.len == w.cap);
    kept = arena_keep(a, &w);
    w = arena_writer(a, 100);
    CHECK(w.cap < 100);
    put(&w, S("0123456789012345678901234567890123456789"));
    put(&w, S("0123456789012345678901234567890123456789"));
    CHECK(w.error == E_BufferFull || w.error == E_OutOfMemory);
    arena_keep(a, &w);
    arena_reset(a);
}

#if OS_GUARDED
int __asan_address_is_poisoned(const volatile void *at);

/* Does writing this byte end a process under AddressSanitizer? */
static b32 unit_trips(volatile u8 *at)
{
    int status = 0;
    fflush(0);
    pid_t child = fork();
    if (!child) {
        close(2);
        *at = 1;
        _exit(0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status != 0;
}

static void test_arena_gaps_trip(void)
{
    arena *a = unit_small_arena(4096);
    for (iz n = 0; n < 70; n++) {
        u8 *p = arena_alloc(a, n);
        CHECK(p && __asan_address_is_poisoned(p + n));
        CHECK(!n || !__asan_address_is_poisoned(p + n - 1));
        CHECK(__asan_address_is_poisoned(p + n + 7) && __asan_address_is_poisoned(p + n + 15));
        if (n % 23 == 5)
            CHECK(unit_trips(p + n) && !unit_trips(p + n - 1));
        if (n % 16 == 15)
            arena_reset(a);
    }
    arena_reset(a);
    writer w = arena_writer(a, 100);
    u8 *start = w.buf;
    CHECK(__asan_address_is_poisoned(start + 100) && !__asan_address_is_poisoned(start + 99));
    put(&w, S("abc"));
    arena_keep(a, &w);
    CHECK(__asan_address_is_poisoned(start + 3) && !__asan_address_is_poisoned(start + 2));
    arena_reset(a);
    CHECK(!__asan_address_is_poisoned(start + 100));
    CHECK(!__asan_address_is_poisoned(a->start + 2000));
}
#endif

static void test_writer_limits(void)
{
    u8 buf[8];
    memset(buf, '#', sizeof buf);
    writer w = writer_of(buf, 7);
    put(&w, S("1234567"));
    CHECK(!w.error && w.len == 7);
    put(&w, S(""));
    CHECK(!w.error);
    put_byte(&w, 'x');
    CHECK(w.error == E_BufferFull && w.len == 7 && buf[7] == '#');
    w = writer_of(buf, 7);
    put(&w, S("12345678"));
    CHECK(w.error == E_BufferFull && w.len == 0);
    put(&w, S("1"));
    CHECK(w.len == 0 && w.error == E_BufferFull);
    w = writer_of(buf, 8);
    w.error = E_TimedOut;
    put_byte(&w, 'x');
    CHECK(w.error == E_TimedOut && !w.len);
    w = writer_of(0, 0);
    put(&w, S(""));
    CHECK(!w.error);
    put_byte(&w, 'x');
    CHECK(w.error == E_BufferFull);
}

static void test_writer_numbers(void)
{
    static const u64 values[] = {0, 1, 9, 10, 99, 100, 4294967296, ~0ull, 10000000000000000000ull};
    for (iz i = 0; i < countof(values); i++)
        for (int digits = 1; digits <= 20; digits++) {
            u8 buf[32];
            char expected[32];
            writer w = writer_of(buf, countof(buf));
            put_uint(&w, values[i], digits);
            unit_print(expected, sizeof expected, "%0*llu", digits, values[i]);
            CHECK(unit_is(written(&w), expected));
        }
}

static void test_utf8_round_trip(void)
{
    iz wrong = 0;
    for (u32 c = 0; c < 0x112000; c++) {
        u8 buf[4];
        writer w = writer_of(buf, 4);
        put_utf8(&w, c);
        reader r = reader_of(written(&w));
        u32 back = read_utf8(&r);
        b32 scalar = c < 0xd800 || (c > 0xdfff && c < 0x110000);
        wrong += r.error || reader_left(&r) || back != (scalar ? c : 0xfffd);
        wrong += strict_utf8(buf, w.len) != w.len;
    }
    CHECK(!wrong);
}

/* Every first and second byte, with third and fourth ones about each border. */
static void test_utf8_refused(void)
{
    static const u8 third[] = {0, 'x', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    iz wrong = 0;
    for (u32 v = 0; v < 0x10000 * (u32)countof(third); v++) {
        u8 bytes[4] = {(u8)(v >> 8), (u8)v, third[v >> 16], third[v % (u32)countof(third)]};
        reader r = reader_of((str){bytes, 4});
        read_utf8(&r);
        iz n = strict_utf8(bytes, 4);
        wrong += n ? r.error || r.at != bytes + n : r.error != E_JsonUtf;
    }
    for (iz n = 1; n < 4; n++) {
        u8 four[] = {0xf0, 0x9f, 0x9a, 0x87};
        reader r = reader_of((str){four, n});
        read_utf8(&r);
        wrong += r.error != E_JsonUtf;
    }
    CHECK(!wrong);
}

static void test_reader_limits(void)
{
    reader r = reader_of(S("abc"));
    CHECK(reader_left(&r) == 3 && reader_peek(&r) == 'a' && read_byte(&r) == 'a');
    CHECK(unit_is(read_bytes(&r, 2), "bc") && !r.error && !reader_left(&r));
    CHECK(reader_peek(&r) == 0 && unit_is(read_bytes(&r, 0), "") && !r.error);
    CHECK(read_byte(&r) == 0 && r.error == E_Truncated);
    r = reader_of(S("abc"));
    CHECK(!read_bytes(&r, 4).len && r.error == E_Truncated && !reader_left(&r));
    CHECK(!read_bytes(&r, 1).len);
    r = reader_of(S("abc"));
    reader_fail(&r, E_TimedOut);
    reader_fail(&r, E_JsonUtf);
    CHECK(r.error == E_TimedOut && read_byte(&r) == 0 && r.error == E_TimedOut);
    r = reader_of(S("2026x"));
    CHECK(read_decimal(&r, 4) == 2026 && !r.error);
    CHECK(read_decimal(&r, 1) == 0 && r.error);
}

static void test_reader_plain(void)
{
    for (iz round = 0; round < 20000; round++) {
        u8 text[40];
        iz n = (iz)(unit_random() % 40), end = 0;
        for (iz i = 0; i < n; i++)
            text[i] = unit_random() % 12 ? (u8)(' ' + unit_random() % 95) : (u8)unit_random();
        while (end < n && text[end] >= 0x20 && text[end] < 0x80 && text[end] != '"' &&
               text[end] != '\\')
            end++;
        reader r = reader_of((str){text, n});
        read_plain(&r);
        CHECK(r.at == text + end);
    }
}

/* ---- section 5: JSON ---- */

static err unit_json(str text)
{
    json j;
    json_start(&j, text, 0);
    return json_finish(&j);
}

/* The same by stepping over the whole value at once, as members that nobody wants are. */
static err unit_json_skip(str text)
{
    json j;
    json_start(&j, text, 0);
    json_skip(&j);
    return json_finish(&j);
}

static int vector_json(str text, int expect_valid)
{
    b32 valid = unit_json(text) == E_None;
    return valid == !!expect_valid && valid == (unit_json_skip(text) == E_None);
}

static void test_json_accepted(void)
{
    static const struct {
        char text[64];
    } rows[] = {
        {"0"},
        {"-0"},
        {" \t\r\n1 \t\r\n"},
        {"-0.0e+0"},
        {"123456789012345678901234567890.5E-99"},
        {"true"},
        {"false"},
        {"null"},
        {"\"\""},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\uFFff\""},
        {"\"\\ud83d\\ude87\\ud800\\udc00\\udbff\\udfff\""},
        {"\"\\ud800\""}, /* within the grammar of section 7 */
        {"\"\\udc00\\ud800\""},
        {"\"\x7f\xc2\x80\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\""},
        {"\"\xf4\x8f\xbf\xbf\""},
        {"[]"},
        {"[ ]"},
        {"{}"},
        {"{ }"},
        {"[1,2 , [3,{}],\"]\"]"},
        {"{\"a\":1 , \"a\" : {\"\":[]}}"},
        {"[[[[]],[]],{\"a\":[{}]}]"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        str text = unit_str(rows[i].text);
        CHECK_ROW(strict_json(text), rows[i].text);
        CHECK_ROW(vector_json(text, 1), rows[i].text);
        for (iz n = 0; n < text.len; n++)
            CHECK_ROW(vector_json(str_span(text, 0, n), strict_json(str_span(text, 0, n))),
                      rows[i].text);
    }
}

static const struct {
    char text[40];
    err error;
} unit_json_refused[] = {
    {"", E_JsonEmpty},
    {" \r\n\t", E_JsonEmpty},
    {"{", E_JsonTruncated},
    {"[", E_JsonTruncated},
    {"[1", E_JsonTruncated},
    {"[1,", E_JsonTruncated},
    {"[[]", E_JsonTruncated},
    {"{\"a\"", E_JsonTruncated},
    {"{\"a", E_JsonTruncated},
    {"{\"a\":", E_JsonTruncated},
    {"{\"a\":1", E_JsonTruncated},
    {"{\"a\":1,", E_JsonTruncated},
    {"\"", E_JsonTruncated},
    {"\"abc", E_JsonTruncated},
    {"\"\\", E_JsonTruncated},
    {"\"\\u", E_JsonTruncated},
    {"\"\\u00", E_JsonTruncated},
    {"tru", E_JsonTruncated},
    {"[nul", E_JsonTruncated},
    {"]", E_JsonSyntax},
    {"}", E_JsonSyntax},
    {"[}", E_JsonSyntax},
    {"{]", E_JsonSyntax},
    {"[1}", E_JsonSyntax},
    {"{\"a\":1]", E_JsonSyntax},
    {"[,]", E_JsonSyntax},
    {"[1,]", E_JsonSyntax},
    {"[1,,2]", E_JsonSyntax},
    {"[,1]", E_JsonSyntax},
    {"[1 2]", E_JsonSyntax},
    {"[1:2]", E_JsonSyntax},
    {"{1:2}", E_JsonSyntax},
    {"{a:2}", E_JsonSyntax},
    {"{'a':2}", E_JsonSyntax},
    {"{\"a\"}", E_JsonSyntax},
    {"{\"a\",1}", E_JsonSyntax},
    {"{\"a\" 1}", E_JsonSyntax},
    {"{\"a\":}", E_JsonSyntax},
    {"{\"a\":1,}", E_JsonSyntax},
    {"{,\"a\":1}", E_JsonSyntax},
    {"{\"a\":1 \"b\":2}", E_JsonSyntax},
    {"{\"a\":1:2}", E_JsonSyntax},
    {"{[]:1}", E_JsonSyntax},
    {"'a'", E_JsonSyntax},
    {"True", E_JsonSyntax},
    {"trux", E_JsonSyntax},
    {"nulls", E_JsonTrailing},
    {"NaN", E_JsonSyntax},
    {"Infinity", E_JsonSyntax},
    {"+1", E_JsonSyntax},
    {".5", E_JsonSyntax},
    {"/* */ 1", E_JsonSyntax},
    {"\xef\xbb\xbf{}", E_JsonSyntax},
    {"\v1", E_JsonSyntax},
    {"\f1", E_JsonSyntax},
    {"[1\f]", E_JsonSyntax},
    {"-", E_JsonNumber},
    {"-a", E_JsonNumber},
    {"--1", E_JsonNumber},
    {"-Infinity", E_JsonNumber},
    {"01", E_JsonNumber},
    {"-01", E_JsonNumber},
    {"00", E_JsonNumber},
    {"1.", E_JsonNumber},
    {"[1.,2]", E_JsonNumber},
    {"1.e1", E_JsonNumber},
    {"1e", E_JsonNumber},
    {"1e+", E_JsonNumber},
    {"1E-x", E_JsonNumber},
    {"-.5", E_JsonNumber},
    {"0x10", E_JsonTrailing},
    {"1.5.5", E_JsonTrailing},
    {"\"\\x\"", E_JsonEscape},
    {"\"\\'\"", E_JsonEscape},
    {"\"\\a\"", E_JsonEscape},
    {"\"\\U0041\"", E_JsonEscape},
    {"\"\\u00g0\"", E_JsonEscape},
    {"\"\\u+041\"", E_JsonEscape},
    {"\"\\ud800\\u00g0\"", E_JsonEscape},
    {"\"a\nb\"", E_JsonControl},
    {"\"\t\"", E_JsonControl},
    {"\"\x1f\"", E_JsonControl},
    {"\"\x80\"", E_JsonUtf},
    {"\"\xc0\xaf\"", E_JsonUtf},
    {"\"\xc1\xbf\"", E_JsonUtf},
    {"\"\xe0\x9f\xbf\"", E_JsonUtf},
    {"\"\xed\xa0\x80\"", E_JsonUtf},
    {"\"\xf0\x8f\xbf\xbf\"", E_JsonUtf},
    {"\"\xf4\x90\x80\x80\"", E_JsonUtf},
    {"\"\xf5\x80\x80\x80\"", E_JsonUtf},
    {"\"\xe2\x82\"", E_JsonUtf},
    {"\"\xff\"", E_JsonUtf},
    {"{\"\xff\":1}", E_JsonUtf},
    {"1 2", E_JsonTrailing},
    {"{} {}", E_JsonTrailing},
    {"[]]", E_JsonTrailing},
    {"\"a\"x", E_JsonTrailing},
    {"true,", E_JsonTrailing},
};

static void test_json_refused(void)
{
    for (iz i = 0; i < countof(unit_json_refused); i++) {
        str text = unit_str(unit_json_refused[i].text);
        char row[100];
        err error = unit_json(text);
        unit_print(row, sizeof row, "%s: %s", unit_json_refused[i].text, unit_error(error));
        CHECK_ROW(error == unit_json_refused[i].error, row);
        CHECK_ROW(!strict_json(text), row);
        CHECK_ROW(vector_json(text, 0), row);
    }
    CHECK(unit_json(S("1\0")) == E_JsonTrailing && unit_json(S("\0")) == E_JsonSyntax);
    CHECK(unit_json(S("\"\0\"")) == E_JsonControl && unit_json(S("[\0]")) == E_JsonSyntax);
    CHECK(unit_json(S("tru\0")) == E_JsonSyntax && unit_json(S("\"\\\0\"")) == E_JsonEscape);
}

static void test_json_depth(void)
{
    static u8 text[200000];
    for (int object = 0; object < 2; object++)
        for (iz depth = 999; depth <= 1001; depth++) {
            iz n = 0;
            for (iz i = 0; i < depth; i++) {
                const char *open = object && i % 2 ? "{\"a\":" : "[";
                memcpy(text + n, open, strlen(open));
                n += (iz)strlen(open);
            }
            text[n++] = '0';
            for (iz i = depth; i-- > 0;)
                text[n++] = object && i % 2 ? '}' : ']';
            err error = depth > 1000 ? E_JsonTooDeep : E_None;
            CHECK(unit_json((str){text, n}) == error);
            CHECK(unit_json_skip((str){text, n}) == error);
        }
    memset(text, '[', sizeof text);
    CHECK(unit_json((str){text, countof(text)}) == E_JsonTooDeep);
    CHECK(unit_json_skip((str){text, countof(text)}) == E_JsonTooDeep);
    iz n = 0; /* brackets side by side are not deep */
    for (text[n++] = '['; n < 150000;)
        n += sprintf((char *)text + n, "%s[{}]", n > 1 ? "," : "");
    text[n++] = ']';
    CHECK(unit_json((str){text, n}) == E_None);
}

/* Texts that have one byte or more changed are judged as the independent reader judges them. */
static void test_json_against_validator(void)
{
    static const char seed[] =
        "{\"a\":[1,-2.5e+7,\"x\\u00e9\\ud83d\\ude87\xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\x87\",true],"
        "\"b\" : {\"c\":null , \"\\\"\":[[],{}],\"long plain text that has no escape\":false}}";
    static const char bytes[] = "{}[]:,\"\\0123456789eE+-.utrfalsn \t\n\x01\x80\xff\xc3";
    iz wrong = 0, good = 0;
    for (iz round = 0; round < 60000; round++) {
        u8 text[sizeof seed + 8];
        iz n = (iz)sizeof seed - 1;
        memcpy(text, seed, sizeof seed);
        for (u64 k = unit_random() % 3 + 1; k; k--) {
            iz at = (iz)(unit_random() % (u64)n);
            u8 byte = (u8)bytes[unit_random() % (sizeof bytes - 1)];
            u64 how = unit_random() % 3;
            if (how == 0) {
                text[at] = byte;
            } else if (how == 1) {
                memmove(text + at, text + at + 1, (size_t)(n - at - 1));
                n--;
            } else {
                memmove(text + at + 1, text + at, (size_t)(n - at));
                text[at] = byte;
                n++;
            }
        }
        b32 valid = strict_json((str){text, n});
        good += valid;
        wrong += !vector_json((str){text, n}, valid);
    }
    CHECK(!wrong && good > 3000);
}

static void test_json_tokens(void)
{
    json j;
    json_start(&j, S("{\"a\":[1,-2e3],\"b\":{},\"c\\n\":\"x\",\"d\":[true,false,null]}"), 0);
    CHECK(json_next(&j) == JSON_OBJECT && json_next(&j) == JSON_NAME && unit_is(j.text, "a"));
    CHECK(json_next(&j) == JSON_ARRAY && json_next(&j) == JSON_NUMBER && unit_is(j.text, "1"));
    CHECK(json_next(&j) == JSON_NUMBER && unit_is(j.text, "-2e3"));
    CHECK(json_next(&j) == JSON_ARRAY_END && json_next(&j) == JSON_NAME);
    CHECK(json_next(&j) == JSON_OBJECT && json_next(&j) == JSON_OBJECT_END);
    CHECK(json_next(&j) == JSON_NAME && unit_is(j.text, "c\\n"));
    CHECK(json_next(&j) == JSON_STRING && unit_is(j.text, "x") && json_next(&j) == JSON_NAME);
    CHECK(json_next(&j) == JSON_ARRAY && json_next(&j) == JSON_TRUE);
    CHECK(json_next(&j) == JSON_FALSE && json_next(&j) == JSON_NULL);
    CHECK(json_next(&j) == JSON_ARRAY_END && json_next(&j) == JSON_OBJECT_END);
    CHECK(json_next(&j) == JSON_END && !j.in.error && json_next(&j) == JSON_END);
}

/* Asks for four members; gives their numbers and texts joined, in the order of the text. */
static str unit_fields(const char *text, err *error)
{
    static u8 buf[200];
    writer w = writer_of(buf, countof(buf));
    arena *a = unit_arena();
    json j;
    json_start(&j, unit_str(text), a);
    if (json_walk_start(&j, "one two in.one in.er.two"))
        for (i32 i; (i = json_walk_next(&j)) >= 0;) {
            put_byte(&w, (u8)('1' + i));
            str value = json_text(&j);
            put(&w, value.ptr ? value : S("-"));
            put_byte(&w, ' ');
        }
    *error = json_finish(&j);
    return written(&w);
}

static void test_json_fields(void)
{
    static const struct {
        char text[100], expected[40];
    } rows[] = {
        {"{\"one\":\"a\",\"two\":\"b\"}", "1a 2b "},
        {"{\"two\":\"b\",\"x\":[{\"one\":\"n\"}],\"one\":\"a\"}", "2b 1a "},
        {"{\"one\":\"a\",\"one\":\"b\"}", "1a "},
        {"{\"one\":null,\"one\":\"b\"}", "1- "},
        {"{\"one\":{},\"one\":\"b\",\"two\":\"c\",\"one\":[]}", "1 2c "},
        {"{\"\\u006fne\":\"a\",\"one\":\"b\"}", "1a "},
        {"{\"one\":\"a\",\"\\u006F\\u006e\\u0065\":\"b\"}", "1a "},
        {"{\"One\":\"a\",\"one \":\"b\",\" one\":\"c\",\"on\":\"d\",\"onee\":\"e\"}", ""},
        {"{\"one two\":\"a\",\"\":\"b\",\"one\\u0000\":\"c\"}", ""},
        {"{\"one\":\"\\u0041\\n\\\"\\ud83d\\ude87\"}", "1A\n\"\xf0\x9f\x9a\x87 "},
        {"{\"one\":\"\\ud83dx\",\"two\":\"\\ude87\"}", "1\xef\xbf\xbdx 2\xef\xbf\xbd "},
        {"{\"one\":1,\"two\":true}", "1 2 "},
        {"{\"in\":{\"er\":{\"two\":\"d\"},\"one\":\"c\"},\"one\":\"a\"}", "4d 3c 1a "},
        {"{\"in\":{\"two\":\"x\",\"in\":{\"one\":\"y\"},\"one\":\"c\"}}", "3c "},
        {"{\"in\":{\"one\":\"c\"},\"in\":{\"one\":\"x\",\"er\":{\"two\":\"y\"}}}", "3c "},
        {"{\"in\":{},\"in\":{\"one\":\"x\"}}", ""},
        {"{\"in\":null,\"in\":{\"one\":\"x\"},\"two\":\"b\"}", "2b "},
        {"{\"in\":[{\"one\":\"x\"}],\"in\":{\"one\":\"x\"},\"two\":\"b\"}", "2b "},
        {"{\"in\":{\"er\":7,\"er\":{\"two\":\"x\"},\"one\":\"c\",\"one\":\"y\"}}", "3c "},
        {"{\"in\":{\"er\":{\"x\":{\"two\":\"x\"}},\"one\":\"c\"}}", "3c "},
        {"{\"in.one\":\"x\",\"in\":{\"er.two\":\"y\",\"\":{\"one\":\"z\"},\"one\":\"c\"}}", "3c "},
        {"{\"\":{\"one\":\"x\"},\"i\":{\"n\":1},\"inn\":{\"one\":\"y\"},\"one\":\"a\"}", "1a "},
        {"{\"\\u0069n\":{\"on\\u0065\":\"c\"},\"in\":{\"one\":\"x\"}}", "3c "},
        {"{\"one\":{\"in\":{\"one\":\"x\"}},\"two\":\"b\"}", "1 2b "},
        {"{\"one\":[\"a\"],\"two\":{\"one\":\"x\"}}", "1 2 "},
        {"[\"one\",\"two\"]", ""},
        {"\"one\"", ""},
        {"{}", ""},
    };
    for (iz i = 0; i < countof(rows); i++) {
        err error;
        str got = unit_fields(rows[i].text, &error);
        CHECK_ROW(unit_is(got, rows[i].expected) && !error, rows[i].text);
    }
    err error;
    unit_fields("{\"one\":\"a\",\"two\":\"b\"", &error);
    CHECK(error == E_JsonTruncated);
    unit_fields("{\"" /* an escaped name longer than any that is asked for */
                "\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f\\u006f"
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":1}",
                &error);
    CHECK(!error);
}

static void test_json_values(void)
{
    static const struct {
        char text[24];
        i32 small;
        int is_true;
    } rows[] = {
        {"0", 0, 0},       {"20", 20, 0},        {"1000", 1000, 0}, {"1001", -1, 0},
        {"-1", -1, 0},     {"-0", -1, 0},        {"1.0", -1, 0},    {"1e2", -1, 0},
        {"\"20\"", -1, 0}, {"true", -1, 1},      {"false", -1, 0},  {"null", -1, 0},
        {"[20]", -1, 0},   {"{\"a\":1}", -1, 0}, {"[true]", -1, 0}, {"99999999999999999999", -1, 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        json j;
        json_start(&j, unit_str(rows[i].text), 0);
        CHECK_ROW(json_small(&j, 1000) == rows[i].small && !json_finish(&j), rows[i].text);
        json_start(&j, unit_str(rows[i].text), 0);
        CHECK_ROW(json_is_true(&j) == rows[i].is_true && !json_finish(&j), rows[i].text);
    }
    arena *a = unit_small_arena(256);
    static char text[1000] = "\"";
    for (int i = 0; i < 300; i++)
        memcpy(text + 1 + 2 * i, "\\n", 2);
    text[601] = '"';
    json j;
    json_start(&j, unit_str(text), a);
    json_text(&j);
    CHECK(json_finish(&j) == E_OutOfMemory);
    arena_reset(a);
}

/* Whatever bytes go in, what comes out is one JSON value, and the same text where it was UTF-8. */
static void test_json_writer(void)
{
    iz wrong = 0;
    for (iz round = 0; round < 20000; round++) {
        static u8 bytes[64], out[1024];
        iz n = (iz)(unit_random() % 64);
        for (iz i = 0; i < n; i++)
            bytes[i] = round % 2 ? (u8)unit_random() : (u8)(unit_random() % 0x7f);
        str text = {bytes, n};
        writer w = writer_of(out, countof(out));
        json_put_open(&w, '{');
        json_put_member(&w, "text", text);
        json_put_name(&w, "more");
        json_put_open(&w, '[');
        json_put_string(&w, text);
        json_put_string(&w, S("\xf0\x9f\x9a\x87"));
        put(&w, S("]}"));
        wrong += w.error || !strict_json(written(&w));
        str back = strict_string_at(written(&w), "text");
        wrong += strict_text(text) ? !str_eq(back, text) : !strict_text(back);
    }
    CHECK(!wrong);
    u8 out[64];
    writer w = writer_of(out, countof(out));
    json_put_string(&w, S("\"\\/\b\x01\x7f\xc3"));
    CHECK(strict_json(written(&w)));
    CHECK(unit_has(written(&w), "\\\"\\\\") && unit_has(written(&w), "\\u0001"));
    CHECK(unit_has(written(&w), "\xef\xbf\xbd"));
    w = writer_of(out, 10);
    json_put_string(&w, S("0123456789"));
    CHECK(w.error == E_BufferFull && w.len <= 10);
}

/* A value is never copied or cut where nothing has to be decoded. */
static void test_json_slices(void)
{
    str text = S("{\"one\":\"plain\"}");
    json j;
    arena *a = unit_arena();
    json_start(&j, text, a);
    CHECK(json_walk_start(&j, "one") && json_walk_next(&j) == 0);
    str value = json_text(&j);
    CHECK(value.ptr == text.ptr + 8 && value.len == 5 && a->at == a->start);
    CHECK(json_walk_next(&j) == -1 && !json_finish(&j));
    json_start(&j, S("[[1,2],{\"a\":3},4]"), 0);
    iz count = 0;
    for (b32 array = json_enter(&j, JSON_ARRAY); array && json_element(&j); count++)
        json_skip(&j);
    CHECK(count == 3 && !json_finish(&j));
    json_start(&j, S("[]"), 0);
    CHECK(json_enter(&j, JSON_ARRAY) && !json_element(&j) && !json_finish(&j));
    json_start(&j, S("[1"), 0);
    for (count = 0; json_next(&j) != JSON_END && count < 9; count++)
        ;
    CHECK(count == 2 && j.in.error == E_JsonTruncated && !json_element(&j));
}

static void fuzz_json(const u8 *data, iz n)
{
    str text = {data, n};
    iz depth = 0, deepest = 0; /* the validator's limit is the same, but it counts on its way */
    for (iz i = 0; i < n; i++) {
        depth += data[i] == '[' || data[i] == '{';
        deepest = depth > deepest ? depth : deepest;
    }
    if (deepest <= 1000 && !vector_json(text, strict_json(text)))
        abort();
    json j;
    json_start(&j, text, unit_arena());
    if (json_enter(&j, JSON_ARRAY))
        while (json_element(&j))
            if (!strict_text(json_text(&j)) && !j.in.error)
                abort();
    json_finish(&j);
}

/* ---- section 6: hashes and ciphers ---- */

/* ---- hexadecimal and random bytes ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads n characters of lower-case hexadecimal; the number of bytes, or -1. */
static iz hex_read(u8 *out, iz cap, const char *text, iz n)
{
    if (n % 2 || n / 2 > cap)
        return -1;
    for (iz i = 0; i < n / 2; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -1;
        out[i] = (u8)(high << 4 | low);
    }
    return n / 2;
}

static str hex_str(u8 *buf, iz cap, const char *text)
{
    iz n = hex_read(buf, cap, text, (iz)strlen(text));
    CHECK(n >= 0);
    return (str){buf, n < 0 ? 0 : n};
}

static b32 hex_is(const u8 *bytes, iz n, const char *text)
{
    u8 buf[512];
    str want = hex_str(buf, sizeof buf, text);
    return str_eq((str){bytes, n}, want);
}

static void hex_write(char *out, const u8 *bytes, iz n)
{
    for (iz i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    out[2 * n] = 0;
}

/* xorshift64*: the same bytes in each run. */
static void test_fill(u64 *seed, u8 *out, iz n)
{
    for (iz i = 0; i < n; i++) {
        *seed ^= *seed >> 12;
        *seed ^= *seed << 25;
        *seed ^= *seed >> 27;
        out[i] = (u8)(*seed * 2685821657736338717u >> 56);
    }
}

/* ---- hashes ---- */

static void test_hash_published(void)
{
    /* FIPS 180-4 examples (csrc.nist.gov, "Examples with Intermediate Values"): one block, two
     * blocks; SHA*ShortMsg of the CAVP for the empty message. */
    static const struct {
        hash_id id;
        char text[128], digest[136];
    } rows[] = {
        {SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {SHA256, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {SHA384, "",
         "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da"
         "274edebfe76f65fbd51ad2f14898b95b"},
        {SHA384, "abc",
         "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
         "8086072ba1e7cc2358baeca134c825a7"},
        {SHA384,
         "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
         "lmnopqrsmnopqrstnopqrstu",
         "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712"
         "fcc7c71a557e2db966c3e9fa91746039"},
        {SHA512, "",
         "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
         "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"},
        {SHA512, "abc",
         "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
         "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
        {SHA512,
         "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
         "lmnopqrsmnopqrstnopqrstu",
         "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
         "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 out[HASH_MAX];
        hash_of(rows[i].id, (str){(const u8 *)rows[i].text, (iz)strlen(rows[i].text)}, out);
        CHECK(hex_is(out, hash_size(rows[i].id), rows[i].digest));
    }
}

static void test_hash_million(void)
{
    /* FIPS 180-4 examples: a million times "a", here in pieces of 1,000. */
    static const char digest[][136] = {
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "9d0e1809716474cb086e834e310a4a1ced149e9c00f248527972cec5704c2a5b"
        "07b8b3dc38ecc4ebae97ddd87f3d8985",
        "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
        "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b"};
    u8 piece[1000], out[HASH_MAX];
    memset(piece, 'a', sizeof piece);
    for (iz id = SHA256; id <= SHA512; id++) {
        hash h;
        hash_init(&h, (hash_id)id);
        for (int i = 0; i < 1000; i++)
            hash_add(&h, (str){piece, sizeof piece});
        hash_end(&h, out);
        CHECK(hex_is(out, hash_size((hash_id)id), digest[id]));
    }
}

/* Every length around two block boundaries, split at every byte, in three pieces, and forked. */
static void test_hash_split(void)
{
    u8 text[260], whole[HASH_MAX], parts[HASH_MAX];
    u64 seed = 1;
    test_fill(&seed, text, sizeof text);
    for (iz id = SHA256; id <= SHA512; id++) {
        iz size = hash_size((hash_id)id), bad = 0;
        for (iz n = 0; n <= (iz)sizeof text; n++) {
            hash_of((hash_id)id, (str){text, n}, whole);
            for (iz cut = 0; cut <= n; cut++) {
                hash h, fork;
                iz second = cut + (n - cut) / 3;
                hash_init(&h, (hash_id)id);
                hash_add(&h, (str){text, cut});
                fork = h;
                hash_add(&h, (str){text + cut, n - cut});
                hash_end(&h, parts);
                bad += memcmp(parts, whole, (uz)size) != 0;
                hash_add(&fork, (str){text + cut, second - cut});
                hash_add(&fork, (str){text + second, n - second});
                hash_end(&fork, parts);
                bad += memcmp(parts, whole, (uz)size) != 0;
            }
        }
        CHECK(bad == 0);
    }
}

static void test_hash_leaves_nothing(void)
{
    hash h;
    u8 out[HASH_MAX + 8], zeros[sizeof h] = {0};
    memset(out, 0x5a, sizeof out);
    hash_init(&h, SHA384);
    hash_add(&h, S("secret"));
    hash_end(&h, out);
    CHECK(!memcmp(&h, zeros, sizeof h));
    CHECK(out[47] != 0x5a || out[46] != 0x5a);
    CHECK(out[48] == 0x5a && out[63] == 0x5a);
}

/* ---- HMAC and HKDF ---- */

static void test_hmac_published(void)
{
    /* RFC 4231, 4.2 to 4.8: keys and data shorter and longer than a block. The fifth is cut. */
    static const struct {
        char key[272], data[320], sha256[72], sha384[104], sha512[136];
    } rows[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
         "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
         "faea9ea9076ede7f4af152e8b2fa9cb6",
         "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
         "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"},
        {"4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
         "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
         "8e2240ca5e69e2c78b3239ecfab21649",
         "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
         "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "dddddddddddddddddddddddddddddddddddddddddddddddddd"
         "dddddddddddddddddddddddddddddddddddddddddddddddddd",
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
         "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b"
         "2a5ab39dc13814b94e3ab6e101a34f27",
         "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39"
         "bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb"},
        {"0102030405060708090a0b0c0d0e0f10111213141516171819",
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
         "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
         "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e"
         "6801dd23c4a7d679ccf8a386c674cffb",
         "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db"
         "a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd"},
        {"0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c", "546573742057697468205472756e636174696f6e",
         "a3b6167473100ee06e0c796c2955552b", "3abf34c3503b2a23a46efc619baef897",
         "415fad6271580a531d4179bc891d87a6"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 key[160], data[160], out[HASH_MAX];
        str k = hex_str(key, sizeof key, rows[i].key);
        str d = hex_str(data, sizeof data, rows[i].data);
        hmac(SHA256, k, d, out);
        CHECK(hex_is(out, (iz)strlen(rows[i].sha256) / 2, rows[i].sha256));
        hmac(SHA384, k, d, out);
        CHECK(hex_is(out, (iz)strlen(rows[i].sha384) / 2, rows[i].sha384));
        hmac(SHA512, k, d, out);
        CHECK(hex_is(out, (iz)strlen(rows[i].sha512) / 2, rows[i].sha512));
    }
}

static void test_hmac_long_key(void)
{
    /* RFC 4231, 4.7 and 4.8: a key of 131 bytes 0xaa. */
    u8 key[131], out[HASH_MAX];
    str k = {key, sizeof key};
    str four_seven = S("Test Using Larger Than Block-Size Key - Hash Key First");
    str four_eight = S("This is a test using a larger than block-size key and a larger than "
                       "block-size data. The key needs to be hashed before being used by the "
                       "HMAC algorithm.");
    memset(key, 0xaa, sizeof key);
    hmac(SHA256, k, four_seven, out);
    CHECK(hex_is(out, 32, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"));
    hmac(SHA384, k, four_seven, out);
    CHECK(hex_is(out, 48,
                 "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
                 "0c2ef6ab4030fe8296248df163f44952"));
    hmac(SHA512, k, four_seven, out);
    CHECK(hex_is(out, 64,
                 "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
                 "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"));
    hmac(SHA256, k, four_eight, out);
    CHECK(hex_is(out, 32, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"));
    hmac(SHA384, k, four_eight, out);
    CHECK(hex_is(out, 48,
                 "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5"
                 "a678cc31e799176d3860e6110c46523e"));
    hmac(SHA512, k, four_eight, out);
    CHECK(hex_is(out, 64,
                 "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944"
                 "b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58"));
}

static void test_hkdf_published(void)
{
    /* RFC 5869, appendix A.1 to A.3. */
    static const struct {
        char ikm[168], salt[168], info[168], prk[72], okm[168];
    } rows[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "000102030405060708090a0b0c",
         "f0f1f2f3f4f5f6f7f8f9", "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
         "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829"
         "2a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f",
         "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283848586878889"
         "8a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
         "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9"
         "dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
         "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
         "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb"
         "41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"},
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "", "",
         "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
         "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 ikm[80], salt[80], info[80], prk[HASH_MAX], okm[82];
        iz n = (iz)strlen(rows[i].okm) / 2;
        str context = hex_str(info, sizeof info, rows[i].info);
        hkdf_extract(SHA256, hex_str(salt, sizeof salt, rows[i].salt),
                     hex_str(ikm, sizeof ikm, rows[i].ikm), prk);
        CHECK(hex_is(prk, 32, rows[i].prk));
        hkdf_expand(SHA256, (str){prk, 32}, context, okm, n);
        CHECK(hex_is(okm, n, rows[i].okm));
        for (iz less = 0; less < n; less++) {
            u8 shorter[82] = {0}, zero = 0;
            hkdf_expand(SHA256, (str){prk, 32}, context, shorter, less);
            CHECK(!memcmp(shorter, okm, (uz)less) && shorter[less] == zero);
        }
    }
}

static void test_hkdf_overlay(void)
{
    u8 key[HASH_MAX], apart[255 * 48], over[255 * 48];
    memset(key, 7, sizeof key);
    memcpy(over, key, 48);
    hkdf_expand(SHA384, (str){key, 48}, S("info"), apart, sizeof apart);
    hkdf_expand(SHA384, (str){over, 48}, S("info"), over, sizeof over);
    CHECK(!memcmp(apart, over, sizeof apart));
    hkdf_extract(SHA384, (str){key, 48}, (str){key, 48}, apart);
    hkdf_extract(SHA384, (str){key, 48}, (str){key, 48}, key);
    CHECK(!memcmp(apart, key, 48));
}

static void test_hkdf_expand_label_published(void)
{
    /* RFC 8448, section 3, "Simple 1-RTT Handshake": the client's key schedule. */
    u8 secret[HASH_MAX], hello[32], buf[64], out[HASH_MAX], zeros[32] = {0};
    str early = {secret, 32}, transcript;
    hkdf_extract(SHA256, S(""), (str){zeros, 32}, secret);
    CHECK(hex_is(secret, 32, "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"));
    hash_of(SHA256, S(""), out);
    hkdf_expand_label(SHA256, early, S("derived"), (str){out, 32}, secret, 32);
    CHECK(hex_is(secret, 32, "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"));
    hkdf_extract(SHA256, (str){secret, 32},
                 hex_str(buf, sizeof buf,
                         "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d"),
                 secret);
    CHECK(hex_is(secret, 32, "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac"));
    transcript = hex_str(hello, sizeof hello,
                         "860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8");
    hkdf_expand_label(SHA256, (str){secret, 32}, S("c hs traffic"), transcript, out, 32);
    CHECK(hex_is(out, 32, "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"));
    hkdf_expand_label(SHA256, (str){secret, 32}, S("s hs traffic"), transcript, out, 32);
    CHECK(hex_is(out, 32, "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"));
    hkdf_expand_label(SHA256, (str){out, 32}, S("key"), S(""), buf, 16);
    CHECK(hex_is(buf, 16, "3fce516009c21727d0f2e4e86ee403bc"));
    hkdf_expand_label(SHA256, (str){out, 32}, S("iv"), S(""), buf, 12);
    CHECK(hex_is(buf, 12, "5d313eb2671276ee13000b30"));
    hkdf_expand_label(SHA256, (str){out, 32}, S("finished"), S(""), buf, 32);
    CHECK(hex_is(buf, 32, "008d3b66f816ea559f96b537e885c31fc068bf492c652f01f288a1d8cdc19fc8"));
}

static void test_hkdf_wrong_sizes_differ(void)
{
    /* The label's parts are told apart: moving a byte between label and context changes all. */
    u8 key[32] = {1}, a[32], b[32], c[32];
    hkdf_expand_label(SHA256, (str){key, 32}, S("ab"), S("c"), a, 32);
    hkdf_expand_label(SHA256, (str){key, 32}, S("a"), S("bc"), b, 32);
    hkdf_expand_label(SHA256, (str){key, 32}, S("ab"), S("c"), c, 31);
    CHECK(memcmp(a, b, 32) && memcmp(a, c, 31));
}

/* ---- AEAD ---- */

static void test_chacha20_block_published(void)
{
    /* RFC 8439, 2.3.2. */
    aead a;
    u8 key[32], nonce[12];
    u32 out[16];
    for (iz i = 0; i < 32; i++)
        key[i] = (u8)i;
    hex_str(nonce, sizeof nonce, "000000090000004a00000000");
    aead_init(&a, CHACHA20_POLY1305, key);
    chacha20_block(&a, nonce, 1, out);
    CHECK(hex_is((const u8 *)out, 64,
                 "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
                 "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"));
}

static void test_poly1305_published(void)
{
    /* RFC 8439, appendix A.3, numbers 7 to 11: sums at the edges of 2^128 and 2^130 - 5. */
    static const struct {
        char r[40], s[40], data[168], tag[40];
    } rows[] = {
        {"02000000000000000000000000000000", "00000000000000000000000000000000",
         "ffffffffffffffffffffffffffffffff", "03000000000000000000000000000000"},
        {"02000000000000000000000000000000", "ffffffffffffffffffffffffffffffff",
         "02000000000000000000000000000000", "03000000000000000000000000000000"},
        {"01000000000000000000000000000000", "00000000000000000000000000000000",
         "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff"
         "11000000000000000000000000000000",
         "05000000000000000000000000000000"},
        {"01000000000000000000000000000000", "00000000000000000000000000000000",
         "fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe"
         "01010101010101010101010101010101",
         "00000000000000000000000000000000"},
        {"02000000000000000000000000000000", "00000000000000000000000000000000",
         "fdffffffffffffffffffffffffffffff", "faffffffffffffffffffffffffffffff"},
        {"01000000000000000400000000000000", "00000000000000000000000000000000",
         "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000"
         "0000000000000000000000000000000001000000000000000000000000000000",
         "14000000000000005500000000000000"},
        {"01000000000000000400000000000000", "00000000000000000000000000000000",
         "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000"
         "00000000000000000000000000000000",
         "13000000000000000000000000000000"},
        /* By hand: 3 (2^129 - 1) is 2^129 + 2, and twice 2^128 more makes 7. */
        {"01000000000000000000000000000000", "00000000000000000000000000000000",
         "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
         "ffffffffffffffffffffffffffffffff00000000000000000000000000000000"
         "00000000000000000000000000000000",
         "07000000000000000000000000000000"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 r[16], last[16], data[80], tag[16];
        hex_str(r, 16, rows[i].r);
        hex_str(last, 16, rows[i].s);
        poly1305 p = {.r0 = load64(r), .r1 = load64(r + 8)};
        poly1305_add(&p, hex_str(data, sizeof data, rows[i].data));
        poly1305_end(&p, load128(last), tag);
        CHECK(hex_is(tag, 16, rows[i].tag));
    }
}

static void test_aead_published(void)
{
    /* AES: McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 1 to 4
     * and 13 to 16. ChaCha20-Poly1305: RFC 8439, 2.8.2, and appendix A.5's key and nonce. */
    static const char key[2][72] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"};
    static const char nonce[2][32] = {"000000000000000000000000", "cafebabefacedbaddecaf888"};
    static const char text[] = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                               "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    static const char aad[] = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    static const struct {
        iz which, text, aad;
        char aes128[168], aes256[168];
    } rows[] = {
        {0, 0, 0, "58e2fccefa7e3061367f1d57a4e7455a", "530f8afbc74536b9a963b4f1c4cb738b"},
        {0, 16, 0, "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf",
         "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"},
        {1, 64, 0,
         "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5a"
         "ac84aa051ba30b396a0aac973d58e091473f59854d5c2af327cd64a62cf35abd2ba6fab4",
         "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10"
         "56828838c5f61e6393ba7a0abcc9f662898015adb094dac5d93471bdec1a502270e3cc6c"},
        {1, 60, 20,
         "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5a"
         "ac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
         "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10"
         "56828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"},
    };
    if (!os_cpu_aes(0)) {
        skipped++;
        return;
    }
    for (iz i = 0; i < countof(rows); i++) {
        u8 k[32], iv[12], more[20], data[80];
        hex_str(k, 32, key[rows[i].which]);
        hex_str(iv, 12, nonce[rows[i].which]);
        hex_str(more, 20, aad);
        for (iz id = AES_128_GCM; id <= AES_256_GCM; id++) {
            aead a;
            memset(data, 0, sizeof data);
            if (rows[i].which)
                hex_str(data, 64, text);
            aead_init(&a, (aead_id)id, k);
            aead_seal(&a, iv, (str){more, rows[i].aad}, data, rows[i].text, data + rows[i].text);
            CHECK(hex_is(data, rows[i].text + 16, id ? rows[i].aes256 : rows[i].aes128));
        }
    }
}

static void test_chacha20_poly1305_published(void)
{
    /* RFC 8439, 2.8.2. */
    aead a;
    u8 key[32], nonce[12], aad[12], data[130];
    str text = S("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
                 "the future, sunscreen would be it.");
    for (iz i = 0; i < 32; i++)
        key[i] = (u8)(0x80 + i);
    hex_str(nonce, 12, "070000004041424344454647");
    hex_str(aad, 12, "50515253c0c1c2c3c4c5c6c7");
    memcpy(data, text.ptr, (uz)text.len);
    aead_init(&a, CHACHA20_POLY1305, key);
    aead_seal(&a, nonce, (str){aad, 12}, data, text.len, data + text.len);
    CHECK(hex_is(data, text.len + 16,
                 "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
                 "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
                 "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
                 "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd060"
                 "0691"));
}

/* Which ciphers can be tested here. */
static b32 test_aead_here(iz id)
{
    if (id == CHACHA20_POLY1305 || os_cpu_aes(0))
        return 1;
    skipped++;
    return 0;
}

/* Every length over four blocks of each cipher comes back; a longer text begins with the shorter
 * one's ciphertext; bytes behind the text are left alone. */
static void test_aead_lengths(void)
{
    enum { LONGEST = 300 };
    u8 key[32], nonce[12], aad[40], plain[LONGEST + 1], longest[LONGEST + 1], data[LONGEST + 1];
    u64 seed = 2;
    test_fill(&seed, key, sizeof key);
    test_fill(&seed, nonce, sizeof nonce);
    test_fill(&seed, aad, sizeof aad);
    test_fill(&seed, plain, sizeof plain);
    for (iz id = AES_128_GCM; id <= CHACHA20_POLY1305; id++) {
        if (!test_aead_here(id))
            continue;
        aead a;
        u8 tag[16];
        iz bad = 0;
        aead_init(&a, (aead_id)id, key);
        memcpy(longest, plain, sizeof plain);
        aead_seal(&a, nonce, S(""), longest, LONGEST, tag);
        for (iz n = 0; n <= LONGEST; n++) {
            str more = {aad, n % 41};
            memcpy(data, plain, sizeof plain);
            aead_seal(&a, nonce, more, data, n, tag);
            bad += memcmp(data, longest, (uz)n) || data[n] != plain[n];
            bad += aead_open(&a, nonce, more, data, n, tag) != E_None;
            bad += memcmp(data, plain, sizeof plain) != 0;
        }
        CHECK(bad == 0);
    }
}

/* 20,003 bytes under 999: the SHA-256 of ciphertext and tag as OpenSSL 3 makes them. */
static void test_aead_long(void)
{
    static const char digest[][72] = {
        "61b2579858d7b23d198627a85f3254c019522bd3e6688b9049c2e84e8efb9d5e",
        "66823452b185d65f2734674dcc166c3197f3203727db83273c044163e3567786",
        "2d1e13d7f521f3a568e59830a29a11bd1431db8ad55c96691536e1b2a2950d33"};
    enum { LONG = 20003 };
    u8 key[32], nonce[12], plain[LONG], data[LONG + 16], out[HASH_MAX];
    u64 seed = 7;
    test_fill(&seed, key, sizeof key);
    test_fill(&seed, nonce, sizeof nonce);
    test_fill(&seed, plain, sizeof plain);
    for (iz id = AES_128_GCM; id <= CHACHA20_POLY1305; id++) {
        if (!test_aead_here(id))
            continue;
        aead a;
        memcpy(data, plain, LONG);
        aead_init(&a, (aead_id)id, key);
        aead_seal(&a, nonce, (str){plain, 999}, data, LONG, data + LONG);
        hash_of(SHA256, (str){data, sizeof data}, out);
        CHECK(hex_is(out, 32, digest[id]));
    }
}

/* Opening must fail and leave the data as it is. */
static iz test_aead_refuses(const aead *a, const u8 *nonce, str aad, const u8 *sealed, iz n,
                            const u8 *tag)
{
    u8 data[64];
    CHECK(n <= (iz)sizeof data);
    memcpy(data, sealed, (uz)n);
    return aead_open(a, nonce, aad, data, n, tag) == E_AeadTag && !memcmp(data, sealed, (uz)n);
}

static void test_aead_flipped(void)
{
    u8 key[32] = {3}, nonce[12] = {4}, aad[13] = {5}, sealed[37] = {6}, tag[16];
    for (iz id = AES_128_GCM; id <= CHACHA20_POLY1305; id++) {
        if (!test_aead_here(id))
            continue;
        static const iz sizes[] = {16, 37, 13, 12};
        u8 *parts[] = {tag, sealed, aad, nonce};
        str more = {aad, sizeof aad};
        aead a;
        aead_init(&a, (aead_id)id, key);
        aead_seal(&a, nonce, more, sealed, sizeof sealed, tag);
        for (iz part = 0; part < 4; part++)
            for (iz bit = 0; bit < 8 * sizes[part]; bit++) {
                parts[part][bit / 8] ^= (u8)(1 << bit % 8);
                CHECK(test_aead_refuses(&a, nonce, more, sealed, sizeof sealed, tag));
                parts[part][bit / 8] ^= (u8)(1 << bit % 8);
            }
        /* Moving a byte from the text to the additional data, or cutting either. */
        CHECK(test_aead_refuses(&a, nonce, (str){aad, 12}, sealed, 37, tag));
        CHECK(test_aead_refuses(&a, nonce, more, sealed, 36, tag));
        CHECK(aead_open(&a, nonce, more, sealed, sizeof sealed, tag) == E_None);
        CHECK(sealed[0] == 6 && sealed[36] == 0);
    }
}

/* ---- X25519 ---- */

static void test_x25519_published(void)
{
    /* RFC 7748, 5.2 (two) and 6.1 (both sides). */
    static const char rows[][3][72] = {
        {"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
         "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
         "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
        {"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
         "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
         "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
        {"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
         "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
         "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
        {"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
         "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
         "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
    };
    u8 secret[32], share[32], shared[32];
    for (iz i = 0; i < countof(rows); i++) {
        hex_str(secret, 32, rows[i][0]);
        hex_str(share, 32, rows[i][1]);
        CHECK(x25519(shared, secret, share) == E_None);
        CHECK(hex_is(shared, 32, rows[i][2]));
    }
    hex_str(secret, 32, rows[2][0]);
    x25519_public(share, secret);
    CHECK(hex_is(share, 32, rows[3][1]));
    hex_str(secret, 32, rows[3][0]);
    x25519_public(share, secret);
    CHECK(hex_is(share, 32, rows[2][1]));
}

static void test_x25519_iterated(void)
{
    /* RFC 7748, 5.2: after one and after 1,000 iterations. */
    u8 k[32] = {9}, u[32] = {9}, out[32];
    for (int i = 1; i <= 1000; i++) {
        CHECK(x25519(out, k, u) == E_None);
        memcpy(u, k, 32);
        memcpy(k, out, 32);
        if (i == 1)
            CHECK(
                hex_is(k, 32, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
    }
    CHECK(hex_is(k, 32, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
}

static void test_x25519_zero(void)
{
    /* The points of small order (cr.yp.to/ecdh.html, "How do I validate Curve25519 public keys?"),
     * below p and above it, each with the unused top bit clear and set. */
    static const char rows[][72] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"};
    u8 share[32], shared[32], secret[32], zeros[32] = {0};
    memset(secret, 0x77, 32);
    for (iz i = 0; i < 2 * countof(rows); i++) {
        hex_str(share, 32, rows[i / 2]);
        share[31] |= (u8)(i % 2 << 7);
        memset(shared, 1, 32);
        CHECK(x25519(shared, secret, share) == E_KeyShareZero);
        CHECK(!memcmp(shared, zeros, 32));
    }
}

/* Whether sum, difference and combination of a loose a and tight ones are not what products make of
 * them, or not in their bounds. */
static b32 f25519_is_not_combined(const f25519 a, const f25519 b, const f25519 c)
{
    static const f25519 one = {1}, factor = {121665}, two = {2};
    f25519 both[2], x, y;
    u8 p[32], q[32];
    b32 bad = 0;
    f25519_combine(x, a, b); /* 121665 a + b, less 121665 a, is b */
    for (iz i = 0; i < 5; i++)
        bad |= x[i] >= (u64)1 << 53;
    f25519_mul(x, x, one);
    f25519_mul(y, a, factor);
    f25519_sums(both, x, y);
    f25519_mul(x, both[1], one);
    f25519_store(p, x);
    memcpy(x, b, sizeof x);
    f25519_store(q, x);
    bad |= memcmp(p, q, 32) != 0;
    f25519_sums(both, b, c); /* (b + c) + (b - c) is 2 b */
    for (iz i = 0; i < 10; i++)
        bad |= both[i / 5][i % 5] >= (u64)1 << 53;
    f25519_mul(x, both[0], one);
    f25519_mul(y, both[1], one);
    f25519_sums(both, x, y);
    f25519_mul(x, both[0], one);
    f25519_mul(y, b, two);
    f25519_store(p, x);
    f25519_store(q, y);
    return bad || memcmp(p, q, 32) != 0;
}

/* Products of limbs at the stated bounds against the same elements made tight first. */
static void test_f25519_bounds(void)
{
    static const f25519 one = {1};
    u64 seed = 3;
    iz bad = 0;
    for (int i = 0; i < 2000; i++) {
        f25519 a, b, c, d, e;
        u8 bytes[5], x[32], y[32];
        test_fill(&seed, bytes, sizeof bytes);
        for (iz j = 0; j < 5; j++) {
            static const u64 edge[] = {
                0, 1, F25519_LIMB - 18, F25519_LIMB, F25519_LIMB + 8191, ((u64)1 << 53) - 1};
            a[j] = edge[bytes[j] % 6];
            b[j] = edge[bytes[j] / 6 % 6];
        }
        f25519_mul(c, a, b);
        for (iz j = 0; j < 5; j++)
            bad += c[j] >= ((u64)1 << 51) + (j == 1 ? 8192 : 0);
        f25519_store(x, c);
        f25519_mul(d, a, one);
        f25519_mul(e, b, one);
        f25519_store(y, d);
        f25519_load(d, y);
        f25519_store(y, e);
        f25519_load(e, y);
        f25519_mul(e, d, e);
        f25519_store(y, e);
        bad += memcmp(x, y, 32) != 0;
        memcpy(d, a, sizeof d); /* in place */
        f25519_mul(d, d, d);
        f25519_mul(c, a, one);
        f25519_mul(c, c, c);
        f25519_store(x, c);
        f25519_store(y, d);
        bad += memcmp(x, y, 32) != 0;
        bad += f25519_is_not_combined(a, c, d);
    }
    CHECK(bad == 0);
}

/* p - 1, p, p + 1, 2^255 - 1 and neighbours of 0 in their one encoding below p. */
static void test_f25519_store(void)
{
    for (u64 i = 0; i < 40; i++) {
        f25519 a = {F25519_LIMB - 20 + i, F25519_LIMB, F25519_LIMB, F25519_LIMB, F25519_LIMB};
        u8 out[32], want[32];
        memset(want, i < 2 ? 0xff : 0, 32); /* p has 2^51 - 19 as its first limb: i = 2 */
        want[0] = (u8)(i < 2 ? 0xeb + i : i - 2);
        if (i < 2)
            want[31] = 0x7f;
        f25519_store(out, a);
        CHECK(!memcmp(out, want, 32));
    }
}

/* ---- openssl as an oracle ---- */

/* The first line that a command prints, without its end; 0 if it failed. */
static b32 test_line(const char *command, char *input, int cap)
{
    FILE *f = popen(command, "r");
    b32 good = f && fgets(input, cap, f);
    if (f && pclose(f))
        good = 0;
    if (good)
        input[strcspn(input, "\r\n")] = 0;
    return good;
}

static b32 test_openssl(void)
{
    char input[200];
    if (test_line("openssl version 2>/dev/null", input, sizeof input))
        return 1;
    skipped++;
    return 0;
}

static void test_hash_openssl(void)
{
    static const char names[][8] = {"sha256", "sha384", "sha512"};
    u64 seed = 4;
    if (!test_openssl())
        return;
    for (iz i = 0; i < 120; i++) {
        u8 msg[256], out[HASH_MAX];
        char msg_hex[513], command[1200], input[300], out_hex[129];
        hash_id id = (hash_id)(i % 3);
        test_fill(&seed, msg, 1 + i);
        iz n = 1 + msg[0] % 250;
        test_fill(&seed, msg, n);
        hex_write(msg_hex, msg, n);
        snprintf(command, sizeof command,
                 "printf '%s' | openssl dgst -%s -mac HMAC -macopt hexkey:%s | sed 's/.*= //'",
                 msg_hex, names[id], msg_hex);
        CHECK(test_line(command, input, sizeof input));
        hmac(id, (str){msg, n}, (str){(const u8 *)msg_hex, 2 * n}, out);
        hex_write(out_hex, out, hash_size(id));
        CHECK(!strcmp(input, out_hex));
        snprintf(command, sizeof command, "printf '%s' | openssl dgst -%s | sed 's/.*= //'",
                 msg_hex, names[id]);
        CHECK(test_line(command, input, sizeof input));
        hash_of(id, (str){(const u8 *)msg_hex, 2 * n}, out);
        hex_write(out_hex, out, hash_size(id));
        CHECK(!strcmp(input, out_hex));
    }
}

static void test_hkdf_openssl(void)
{
    static const char names[][8] = {"sha256", "sha384", "sha512"};
    u64 seed = 5;
    if (!test_openssl())
        return;
    for (iz i = 0; i < 120; i++) {
        u8 key[150], salt[150], prk[HASH_MAX], okm[150];
        char key_hex[301], salt_hex[301], okm_hex[301], command[1200], input[301];
        hash_id id = (hash_id)(i % 3);
        iz key_len = 1 + i * 7 % 150, salt_len = i * 11 % 151, n = 1 + i * 13 % 150;
        test_fill(&seed, key, key_len);
        test_fill(&seed, salt, salt_len);
        hex_write(key_hex, key, key_len);
        hex_write(salt_hex, salt, salt_len);
        snprintf(command, sizeof command,
                 "openssl kdf -keylen %d -kdfopt digest:%s -kdfopt hexkey:%s -kdfopt hexsalt:%s "
                 "-kdfopt hexinfo:%s HKDF | tr -d ':\\n' | tr A-F a-f",
                 (int)n, names[id], key_hex, salt_hex, key_hex);
        CHECK(test_line(command, input, sizeof input));
        hkdf_extract(id, (str){salt, salt_len}, (str){key, key_len}, prk);
        hkdf_expand(id, (str){prk, hash_size(id)}, (str){key, key_len}, okm, n);
        hex_write(okm_hex, okm, n);
        CHECK(!strcmp(input, okm_hex));
    }
}

/* Writes the bytes of a prefix in hexadecimal and n more into dir/name. */
static void test_write(const char *dir, const char *name, const char *prefix, const u8 *p, iz n)
{
    char path[100];
    u8 head[64];
    str h = hex_str(head, sizeof head, prefix);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(h.ptr, 1, (uz)h.len, f) == (uz)h.len && fwrite(p, 1, (uz)n, f) == (uz)n);
    CHECK(f && !fclose(f));
}

/* The last n <= 64 bytes of dir/name. */
static void test_read_end(const char *dir, const char *name, u8 *out, iz n)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    CHECK(f && !fseek(f, -n, SEEK_END) && fread(out, 1, (uz)n, f) == (uz)n);
    if (f)
        fclose(f);
}

/* Our and a peer's key in the encodings of RFC 8410, for openssl to agree and to make public. */
static void test_x25519_openssl(void)
{
    u64 seed = 6;
    char dir[] = "/tmp/skill_test_XXXXXX", command[600];
    if (!test_openssl() || !mkdtemp(dir))
        return;
    for (iz i = 0; i < 60; i++) {
        u8 ours[32], theirs[32], share[32], shared[32], want[32];
        test_fill(&seed, ours, 32);
        test_fill(&seed, theirs, 32);
        x25519_public(share, theirs);
        CHECK(x25519(shared, ours, share) == E_None);
        test_write(dir, "key", "302e020100300506032b656e04220420", ours, 32);
        test_write(dir, "peer", "302a300506032b656e032100", share, 32);
        snprintf(command, sizeof command,
                 "cd %s && openssl pkeyutl -derive -keyform DER -inkey key -peerform DER "
                 "-peerkey peer -out shared && openssl pkey -in key -inform DER -pubout "
                 "-outform DER -out public",
                 dir);
        CHECK(!system(command));
        test_read_end(dir, "shared", want, 32);
        CHECK(!memcmp(shared, want, 32));
        x25519_public(share, ours);
        test_read_end(dir, "public", want, 32);
        CHECK(!memcmp(share, want, 32));
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(!system(command));
}

/* ---- rows of outside vectors (vectors.md) ---- */

enum { VECTOR_BAD = -2, VECTOR_FOREIGN = -1, VECTOR_FAILED = 0, VECTOR_PASSED = 1 };

/* The value of a name in a line of name=value pairs. */
static b32 vector_text(const char *input, const char *name, const char **text, iz *n)
{
    iz len = (iz)strlen(name);
    for (const char *at = input; *at; at += strcspn(at, " \n"), at += strspn(at, " \n"))
        if (!strncmp(at, name, (uz)len) && at[len] == '=') {
            *text = at + len + 1;
            *n = (iz)strcspn(*text, " \n");
            return 1;
        }
    return 0;
}

static b32 vector_is(const char *input, const char *name, const char *value)
{
    const char *text;
    iz n;
    return vector_text(input, name, &text, &n) && n == (iz)strlen(value) &&
           !memcmp(text, value, (uz)n);
}

/* The bytes of a name, to be freed by the caller; ptr 0 if it is missing or not hexadecimal. */
static str sym_vector_bytes(const char *input, const char *name)
{
    const char *text;
    iz n;
    if (!vector_text(input, name, &text, &n))
        return (str){0, 0};
    u8 *bytes = malloc((uz)n / 2 + 1);
    iz len = hex_read(bytes, n / 2, text, n);
    if (len >= 0)
        return (str){bytes, len};
    free(bytes);
    return (str){0, 0};
}

/* In each of these, v holds the bytes of the algorithm's names in the order of `names` below. */
static b32 vector_hash(hash_id id, const str v[6])
{
    u8 out[HASH_MAX];
    hash_of(id, v[0], out);
    return str_eq(v[1], (str){out, hash_size(id)});
}

static b32 vector_hmac(hash_id id, const str v[6])
{
    u8 out[HASH_MAX];
    hmac(id, v[0], v[1], out);
    return v[2].len > 0 && v[2].len <= hash_size(id) && !memcmp(out, v[2].ptr, (uz)v[2].len);
}

static b32 vector_hkdf(hash_id id, const str v[6])
{
    u8 prk[HASH_MAX], out[255 * HASH_MAX];
    if (v[3].len > 255 * hash_size(id))
        return 0;
    hkdf_extract(id, v[1], v[0], prk);
    hkdf_expand(id, (str){prk, hash_size(id)}, v[2], out, v[3].len);
    return str_eq(v[3], (str){out, v[3].len});
}

static b32 vector_aead(aead_id id, const str v[6])
{
    str key = v[0], iv = v[1], aad = v[2], msg = v[3], ct = v[4], tag = v[5];
    aead a;
    u8 sealed[16];
    if (key.len != aead_key_size(id) || iv.len != 12 || tag.len != 16 || msg.len != ct.len)
        return 0;
    u8 *data = malloc((uz)ct.len + 1);
    memcpy(data, ct.ptr, (uz)ct.len);
    aead_init(&a, id, key.ptr);
    b32 good = aead_open(&a, iv.ptr, aad, data, ct.len, tag.ptr) == E_None;
    good = str_eq((str){data, ct.len}, good ? msg : ct) && good; /* refused: left as it was */
    memcpy(data, msg.ptr, (uz)msg.len);
    aead_seal(&a, iv.ptr, aad, data, msg.len, sealed);
    good = good && str_eq((str){data, msg.len}, ct) && str_eq((str){sealed, 16}, tag);
    free(data);
    return good;
}

static b32 vector_x25519(const str v[6])
{
    u8 shared[32];
    return v[0].len == 32 && v[1].len == 32 && x25519(shared, v[0].ptr, v[1].ptr) == E_None &&
           str_eq(v[2], (str){shared, 32});
}

/* One line of an algorithm of section 6a; aes says whether the processor has AES. */
static int vector_symmetric(const char *input, b32 aes)
{
    enum { HASH, HMAC, HKDF, AEAD, AGREE };
    static const char names[][6][8] = {{"msg", "out"},
                                       {"key", "msg", "out"},
                                       {"ikm", "salt", "info", "out"},
                                       {"key", "iv", "aad", "msg", "ct", "tag"},
                                       {"private", "public", "shared"}};
    static const struct {
        char alg[20];
        int kind, id;
    } algs[] = {{"sha256", HASH, SHA256},
                {"sha384", HASH, SHA384},
                {"sha512", HASH, SHA512},
                {"hmac-sha256", HMAC, SHA256},
                {"hmac-sha384", HMAC, SHA384},
                {"hkdf-sha256", HKDF, SHA256},
                {"hkdf-sha384", HKDF, SHA384},
                {"aes-128-gcm", AEAD, AES_128_GCM},
                {"aes-256-gcm", AEAD, AES_256_GCM},
                {"chacha20-poly1305", AEAD, CHACHA20_POLY1305},
                {"x25519", AGREE, 0}};
    iz row = 0;
    while (row < countof(algs) && !vector_is(input, "alg", algs[row].alg))
        row++;
    if (row == countof(algs))
        return VECTOR_FOREIGN;
    b32 valid = vector_is(input, "expect", "valid"), good = valid, right = 0;
    if (!valid && !vector_is(input, "expect", "invalid"))
        return VECTOR_BAD;
    str v[6] = {{0, 0}};
    int kind = algs[row].kind, id = algs[row].id;
    good = 1;
    for (iz i = 0; i < 6 && names[kind][i][0]; i++) {
        v[i] = sym_vector_bytes(input, names[kind][i]);
        good = good && v[i].ptr;
    }
    if (good)
        right = kind == HASH   ? vector_hash((hash_id)id, v)
                : kind == HMAC ? vector_hmac((hash_id)id, v)
                : kind == HKDF ? vector_hkdf((hash_id)id, v)
                : kind == AEAD ? (id == CHACHA20_POLY1305 || aes) && vector_aead((aead_id)id, v)
                               : vector_x25519(v);
    if (kind == AEAD && id != CHACHA20_POLY1305 && !aes)
        right = !valid; /* counted as failed whatever is expected */
    for (iz i = 0; i < 6; i++)
        free((void *)(uz)v[i].ptr);
    return !good ? VECTOR_BAD : right == valid ? VECTOR_PASSED : VECTOR_FAILED;
}

/* The handler must be able to fail: each row wrong in one way. */
static void test_vector_symmetric(void)
{
    static const struct {
        char input[300];
        int verdict;
    } rows[] = {
        {"alg=hmac-sha256 id=a key=4a656665 msg=7768617420646f2079612077616e7420666f72206e6f7468"
         "696e673f out=5bdcc146bf60754e6a042426089575c7 expect=valid\n",
         VECTOR_PASSED},
        {"alg=hmac-sha256 id=a key=4a656665 msg=7768617420646f2079612077616e7420666f72206e6f7468"
         "696e673f out=5bdcc146bf60754e6a042426089575c7 expect=invalid\n",
         VECTOR_FAILED},
        {"expect=valid out=5bdcc146bf60754e6a042426089575c6 alg=hmac-sha256 id=a key=4a656665 "
         "msg=7768617420646f2079612077616e7420666f72206e6f7468696e673f\n",
         VECTOR_FAILED},
        {"alg=sha256 id=a msg=616263 "
         "out=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad expect=valid",
         VECTOR_PASSED},
        {"alg=sha256 id=a msg=616263 "
         "out=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015 expect=valid",
         VECTOR_FAILED},
        {"alg=sha256 id=a msg=61626 out= expect=valid", VECTOR_BAD},
        {"alg=sha256 id=a msg=61626G out= expect=valid", VECTOR_BAD},
        {"alg=sha256 id=a out= expect=valid", VECTOR_BAD},
        {"alg=sha256 id=a msg= out= expect=maybe", VECTOR_BAD},
        {"alg=sha1 id=a msg= out= expect=valid", VECTOR_FOREIGN},
        {"alg=aes-128-gcm id=a key=00000000000000000000000000000000 iv=000000000000000000000000 "
         "aad= msg= ct= tag=58e2fccefa7e3061367f1d57a4e7455a expect=valid",
         VECTOR_PASSED},
        {"alg=aes-128-gcm id=a key=00000000000000000000000000000000 iv=000000000000000000000000 "
         "aad= msg= ct= tag=58e2fccefa7e3061367f1d57a4e7455b expect=valid",
         VECTOR_FAILED},
    };
    for (iz i = 0; i < countof(rows); i++) {
        b32 is_aes = vector_is(rows[i].input, "alg", "aes-128-gcm");
        if (is_aes)
            CHECK(vector_symmetric(rows[i].input, 0) == VECTOR_FAILED);
        if (is_aes && !os_cpu_aes(0))
            skipped++;
        else
            CHECK(vector_symmetric(rows[i].input, 1) == rows[i].verdict);
    }
}

/* ---- section 6: public keys ---- */

static int public_oracle_rounds = 20;

/* ---- tools ---- */

typedef struct {
    u8 buf[8192]; /* the longest signature of the outside vectors has 4,205 */
    iz len;
} pub_bytes;

/* Lower- or upper-case hexadecimal up to a blank or the end; len -1 if it is not that. */
static pub_bytes bytes_of_hex(const char *hex)
{
    pub_bytes b = {.len = 0};
    for (; *hex && *hex != ' ' && *hex != '\n'; hex += 2) {
        unsigned byte;
        int used = 0;
        if (b.len == (iz)sizeof b.buf || sscanf(hex, "%2x%n", &byte, &used) != 1 || used != 2) {
            b.len = -1;
            return b;
        }
        b.buf[b.len++] = (u8)byte;
    }
    return b;
}

static str bytes_str(const pub_bytes *b)
{
    return (str){b->buf, b->len};
}

static u64 public_random_state = 0x9e3779b97f4a7c15;

static u64 public_random(void)
{
    public_random_state ^= public_random_state << 13;
    public_random_state ^= public_random_state >> 7;
    public_random_state ^= public_random_state << 17;
    return public_random_state;
}

static b32 limbs_equal(const u64 *a, const u64 *b, iz n)
{
    return !memcmp(a, b, (uz)n * sizeof *a);
}

/* r = a + b; gives the carry. */
static u64 limbs_sum(u64 *r, const u64 *a, const u64 *b, iz n)
{
    u64 sum[BIG_LIMBS];
    memcpy(sum, a, (size_t)n * 8);
    u64 carry = limbs_add(sum, b, n);
    memcpy(r, sum, (size_t)n * 8);
    return carry;
}

/* r = a - b; gives the borrow. */
static u64 limbs_difference(u64 *r, const u64 *a, const u64 *b, iz n)
{
    u64 rest[BIG_LIMBS];
    memcpy(rest, a, (size_t)n * 8);
    u64 borrow = limbs_sub(rest, b, n);
    memcpy(r, rest, (size_t)n * 8);
    return borrow;
}

/* A random number below m, often with limbs or half limbs of zeros, or limbs of ones. */
static void public_random_below(u64 *r, const u64 *m, iz n)
{
    do
        for (iz i = 0; i < n; i++) {
            u64 kind = public_random() % 8, any = public_random();
            r[i] = kind == 0   ? 0
                   : kind == 1 ? ~(u64)0
                   : kind == 2 ? any << 32
                   : kind == 3 ? any >> 32
                               : any;
        }
    while (!limbs_less(r, m, n) && (r[n - 1] = public_random() % m[n - 1], !limbs_less(r, m, n)));
}

/* r = a * b mod m, bit by bit: slow and plain, to compare with. */
static void model_product(u64 *r, const u64 *a, const u64 *b, const u64 *m, iz n)
{
    u64 sum[BIG_LIMBS] = {0};
    for (iz i = 64 * n - 1; i >= 0; i--)
        for (int step = 0; step < 2; step++) {
            const u64 *other = step ? a : sum;
            if (step && !(b[i / 64] >> (i % 64) & 1))
                continue;
            u64 carry = 0, borrow = 0, less[BIG_LIMBS];
            for (iz j = 0; j < n; j++) {
                u64 low = sum[j] + other[j], with = low + carry;
                carry = (u64)(low < other[j]) + (u64)(with < low);
                sum[j] = with;
            }
            for (iz j = 0; j < n; j++) {
                u64 d = sum[j] - m[j];
                less[j] = d - borrow;
                borrow = (u64)(sum[j] < m[j]) | (u64)(d < borrow);
            }
            if (carry || !borrow)
                memcpy(sum, less, (size_t)n * 8);
        }
    memcpy(r, sum, (size_t)n * 8);
}

static const curve_id public_curves[2] = {P256, P384};

/* ---- arithmetic ---- */

static void test_public_field(void)
{
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        const curve *f = &curves[c];
        iz n = curve_limbs(c);
        u64 edge[5][FIELD_LIMBS] = {{0}, {1}};
        memcpy(edge[2], f->base.z, sizeof edge[2]);
        limbs_difference(edge[3], f->prime, edge[1], n);
        limbs_difference(edge[4], edge[3], edge[1], n);
        int bad_mul = 0, bad_add = 0, bad_sub = 0, bad_invert = 0;
        for (int round = 0; round < 4000; round++) {
            u64 a[FIELD_LIMBS] = {0}, b[FIELD_LIMBS] = {0}, r[FIELD_LIMBS] = {0};
            u64 x[FIELD_LIMBS], y[FIELD_LIMBS];
            public_random_below(a, f->prime, n);
            public_random_below(b, f->prime, n);
            if (round < 25)
                memcpy(a, edge[round / 5], sizeof a), memcpy(b, edge[round % 5], sizeof b);
            field_mul(c, r, a, b); /* r * R = a * b */
            model_product(x, r, f->base.z, f->prime, n);
            model_product(y, a, b, f->prime, n);
            bad_mul += memcmp(x, y, (size_t)n * 8) || !limbs_less(r, f->prime, n);
            memcpy(r, a, sizeof r);
            field_mul(c, r, r, r);
            field_mul(c, x, a, a);
            bad_mul += memcmp(r, x, (size_t)n * 8) != 0;
            field_sub(c, x, a, b);
            bad_sub += !limbs_less(x, f->prime, n);
            field_sub(c, y, field_zero, b);
            field_sub(c, y, x, y);
            bad_add += memcmp(y, a, (size_t)n * 8) != 0;
            if (round % 100 == 0) {
                field_invert(c, x, a);
                field_mul(c, x, x, a);
                bad_invert +=
                    memcmp(x, field_is_zero(a) ? field_zero : f->base.z, (size_t)n * 8) != 0;
            }
        }
        CHECK(!bad_mul), CHECK(!bad_add), CHECK(!bad_sub), CHECK(!bad_invert);
    }
}

/* Constants of the two curves that follow from others and the base points. */
static void test_public_constants(void)
{
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        const curve *f = &curves[c];
        iz n = curve_limbs(c);
        u64 zero[FIELD_LIMBS] = {0}, t[FIELD_LIMBS];
        CHECK(limbs_difference(t, zero, f->prime, n) == 1 && limbs_equal(t, f->base.z, n));
        model_product(t, f->base.z, f->base.z, f->prime, n);
        CHECK(limbs_equal(t, f->square_b[0], n));
    }
    static const char *base[2] = {
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342"
        "e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5", /* SP 800-186, 3.2.1.3 */
        "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f2"
        "5dbf55296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a14"
        "7ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"};
    for (int ci = 0; ci < 2; ci++) {
        pub_bytes b = bytes_of_hex(base[ci]);
        point p;
        CHECK(point_read(public_curves[ci], &p, bytes_str(&b)) == E_None);
        CHECK(!memcmp(&p, &curves[public_curves[ci]].base, sizeof p));
    }
}

/* a's sum as 4, x, y; 0 for infinity. */
static pub_bytes public_point_bytes(const adder *a)
{
    curve_id c = a->curve;
    iz n = curve_limbs(c);
    u64 plain[FIELD_LIMBS] = {1}, z[FIELD_LIMBS], t[FIELD_LIMBS], x[FIELD_LIMBS], y[FIELD_LIMBS];
    pub_bytes b = {.len = 1};
    if (field_is_zero(a->sum.z))
        return b;
    field_invert(c, z, a->sum.z);
    field_mul(c, t, z, z);
    field_mul(c, x, a->sum.x, t);
    field_mul(c, t, t, z);
    field_mul(c, y, a->sum.y, t);
    field_mul(c, x, x, plain);
    field_mul(c, y, y, plain);
    b.buf[0] = 4;
    b.len = 1 + 16 * n;
    limbs_write(b.buf + 1, 8 * n, x);
    limbs_write(b.buf + 1 + 8 * n, 8 * n, y);
    return b;
}

static int public_bytes_equal(const pub_bytes *a, const pub_bytes *b)
{
    return a->len == b->len && !memcmp(a->buf, b->buf, (size_t)a->len);
}

enum { PUBLIC_STEPS = 130 };

/* All multiples of the base point from -PUBLIC_STEPS to PUBLIC_STEPS, by adding it one by one. */
static void public_multiples(curve_id c, pub_bytes multiple[2 * PUBLIC_STEPS + 1])
{
    for (int sign = 0; sign < 2; sign++) {
        adder a = {.curve = c};
        for (iz i = 0; i <= PUBLIC_STEPS; i++) {
            multiple[PUBLIC_STEPS + (sign ? -i : i)] = public_point_bytes(&a);
            a.item = curves[c].base;
            adder_add(&a, sign != 0);
        }
    }
}

static pub_bytes public_all[2 * PUBLIC_STEPS + 1];

/* j G + k (m G) for small j, k, m: sums of equal and of opposite points, and infinity, come up
 * inside and at the end. */
static void test_public_combine(void)
{
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        iz n = curve_limbs(c);
        public_multiples(c, public_all);
        static const int key[] = {1, -1, 2, -2, 3, -3, 5, -7, 31, -32};
        int bad = 0;
        for (iz m = 0; m < countof(key); m++)
            for (int j = 0; j < 34; j += 1 + j / 6)
                for (int k = 0; k < 34; k += 1 + k / 3) {
                    if (abs(j + k * key[m]) > PUBLIC_STEPS)
                        continue;
                    adder a = {.curve = c};
                    point q;
                    big bj = {0}, bk = {0};
                    big_limbs(&bj)[0] = (u64)j;
                    big_limbs(&bk)[0] = (u64)k;
                    bad +=
                        point_read(c, &q, bytes_str(&public_all[PUBLIC_STEPS + key[m]])) != E_None;
                    adder_combine(&a, &bj, &bk, &q);
                    pub_bytes have = public_point_bytes(&a);
                    bad += !public_bytes_equal(&have, &public_all[PUBLIC_STEPS + j + k * key[m]]);
                    if (j) { /* (order - j) G + k Q */
                        limbs_difference(big_limbs(&bj), curves[c].order, big_limbs(&bj), n);
                        if (abs(-j + k * key[m]) > PUBLIC_STEPS)
                            continue;
                        adder_combine(&a, &bj, &bk, &q);
                        have = public_point_bytes(&a);
                        bad +=
                            !public_bytes_equal(&have, &public_all[PUBLIC_STEPS - j + k * key[m]]);
                    }
                }
        CHECK(!bad);
    }
}

/* The scalars next to 0 and next to the order, where a sum of equal points could come up. */
static void test_public_scale_edges(void)
{
    public_multiples(P256, public_all);
    int bad = 0;
    for (int i = 1; i <= PUBLIC_STEPS; i++)
        for (int sign = 0; sign < 2; sign++) {
            u64 k[4] = {(u64)i};
            u8 secret[32], out[65];
            if (sign)
                limbs_difference(k, curves[P256].order, k, 4);
            limbs_write(secret, 32, k);
            const pub_bytes *want = &public_all[PUBLIC_STEPS + (sign ? -i : i)];
            bad += p256_public(out, secret) != E_None || memcmp(out, want->buf, 65);
            const pub_bytes *other = &public_all[PUBLIC_STEPS + 2]; /* secret * 2G */
            if (2 * i <= PUBLIC_STEPS) {
                want = &public_all[PUBLIC_STEPS + 2 * i];
                bad += p256_ecdh(out, secret, bytes_str(other)) != E_None ||
                       memcmp(out, want->buf + 1, 32);
            }
        }
    CHECK(!bad);
    static const char *refused[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632552",
        "ffffffff00000000ffffffffffffffffbce6faada7179e85f3b9cac2fc632551",
        "ffffffff00000001000000000000000000000000000000000000000000000000",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    };
    for (iz i = 0; i < countof(refused); i++) {
        pub_bytes secret = bytes_of_hex(refused[i]);
        u8 out[65];
        static const u8 zeros[65];
        memset(out, 1, sizeof out);
        CHECK(p256_public(out, secret.buf) == E_KeyScalar && !memcmp(out, zeros, 65));
        memset(out, 1, sizeof out);
        CHECK(p256_ecdh(out, secret.buf, bytes_str(&public_all[PUBLIC_STEPS + 1])) == E_KeyScalar);
        CHECK(!memcmp(out, zeros, 32));
    }
}

static void test_public_montgomery(void)
{
    /* bits of the modulus and what stands in its first 64 bits */
    static const struct {
        int bits;
        u64 top;
    } rows[] = {{2048, 0x8000000000000000},
                {2048, ~(u64)0},
                {2049, 0x8000000000000000},
                {2049, ~(u64)0},
                {2111, ~(u64)0},
                {2112, 0x8000000000000001},
                {2113, ~(u64)0},
                {2500, ~(u64)0},
                {3072, 0xc0ffee0123456789},
                {4095, 0x8000000000000000},
                {4096, ~(u64)0},
                {4096, 0x8000000000000000},
                {256, 0xffffffff00000000},
                {384, ~(u64)0},
                {4033, 0x8000000000000000}};
    int bad = 0;
    for (iz i = 0; i < countof(rows); i++) {
        modulus m = {.limbs = 0};
        iz limbs = (rows[i].bits + 63) / 64, drop = 64 * limbs - rows[i].bits;
        u64 *n = big_limbs(&m.n);
        for (iz j = 0; j < limbs; j++)
            n[j] = i % 2 ? public_random() : ~(u64)0;
        n[limbs - 1] = rows[i].top >> drop;
        if (drop)
            n[limbs - 2] = rows[i].top << (64 - drop) | (n[limbs - 2] & (~(u64)0 >> drop));
        n[0] |= 1;
        modulus_set(&m);
        bad += m.limbs != limbs || m.bits != rows[i].bits || n[0] * m.minus_inverse != ~(u64)0;
        u64 r_mod[BIG_LIMBS] = {1}, one[BIG_LIMBS] = {1}; /* R mod n, by doubling */
        for (iz j = 0; j < 64 * limbs; j++)
            if (limbs_add(r_mod, r_mod, limbs) || !limbs_less(r_mod, n, limbs))
                limbs_sub(r_mod, n, limbs);
        for (int round = 0; round < 3; round++) {
            big a = {0}, b = {0}, r = {0};
            u64 x[BIG_LIMBS], y[BIG_LIMBS];
            public_random_below(big_limbs(&a), n, limbs);
            public_random_below(big_limbs(&b), n, limbs);
            if (round == 0) {
                limbs_difference(big_limbs(&a), n, one, limbs);
                b = a;
            }
            r = a;
            mont_product(&m, &r, &b);
            model_product(x, big_limbs(&r), r_mod, n, limbs);
            model_product(y, big_limbs(&a), big_limbs(&b), n, limbs);
            bad += !limbs_equal(x, y, limbs) || !limbs_less(big_limbs(&r), n, limbs);
            r = a;
            mont_product(&m, &r, &r); /* the squaring */
            model_product(x, big_limbs(&r), r_mod, n, limbs);
            model_product(y, big_limbs(&a), big_limbs(&a), n, limbs);
            bad += !limbs_equal(x, y, limbs);
            r = b; /* the factors the other way round */
            mont_product(&m, &r, &a);
            mont_product(&m, &a, &b);
            bad += memcmp(&r, &a, sizeof r) != 0;
            if (limbs < 8)
                continue;
            mont_enter(&m, &r);
            model_product(x, big_limbs(&a), r_mod, n, limbs);
            bad += !limbs_equal(x, big_limbs(&r), limbs);
        }
    }
    CHECK(!bad);
}

static void test_public_scalar_invert(void)
{
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        iz n = curve_limbs(c);
        modulus order = {.limbs = 0};
        memcpy(big_limbs(&order.n), curves[c].order, (size_t)n * 8);
        modulus_set(&order);
        int bad = 0;
        for (int round = 0; round < 300; round++) {
            big k = {0}, r = {0};
            u64 *v = big_limbs(&k);
            do
                public_random_below(v, curves[c].order, n);
            while (!limbs_bits(v, n));
            if (round < 80) { /* 1, 2, ..., powers of two, and their negatives */
                memset(v, 0, 48);
                if (round < 20)
                    v[0] = (u64)round / 2 + 1;
                else
                    v[(round / 2) % n] = (u64)1 << (round % 64);
                if (!limbs_less(v, curves[c].order, n))
                    v[n - 1] >>= 1;
                if (round % 2)
                    limbs_difference(v, curves[c].order, v, n);
            }
            r = k;
            scalar_invert(&order, &r);
            mont_product(&order, &r, &k);
            bad += limbs_bits(big_limbs(&r), n) != 1; /* (R / k) * k / R = 1 */
        }
        CHECK(!bad);
    }
}

/* ---- published values ---- */

static void test_public_ecdh_vectors(void)
{
    static const struct {
        const char *secret, *own, *peer, *shared;
    } rows[] = {
        /* RFC 5903, section 8.1 */
        {"c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
         "04dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c37725811805271a0"
         "461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
         "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf6356fbf3"
         "ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
         "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"},
        {"c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
         "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf6356fbf3"
         "ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
         "04dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c37725811805271a0"
         "461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
         "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"},
        /* NIST CAVP, KAS ECC CDH Primitive, P-256, COUNT = 0 */
        {"7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
         "04ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b23028af61"
         "281fd35e2fa7002523acc85a429cb06ee6648325389f59edfce1405141",
         "04700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287db71e5"
         "09e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
         "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        pub_bytes secret = bytes_of_hex(rows[i].secret), own = bytes_of_hex(rows[i].own);
        pub_bytes peer = bytes_of_hex(rows[i].peer), shared = bytes_of_hex(rows[i].shared);
        u8 out[65];
        CHECK(p256_public(out, secret.buf) == E_None && !memcmp(out, own.buf, 65));
        CHECK(p256_ecdh(out, secret.buf, bytes_str(&peer)) == E_None &&
              !memcmp(out, shared.buf, 32));
    }
}

/* RFC 6979, sections A.2.5 and A.2.6 */
#define PUBLIC_KEY_A25                                                         \
    "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe" \
    "1008b8bc99a41ae9e95628bc64f2f1b2"                                         \
    "0c2d7e9f5177a3c294d4462299"
#define PUBLIC_KEY_A26                                                         \
    "04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0" \
    "ea9055866064a254515480bc138015d9"                                         \
    "b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4" \
    "fe7344fd2533264720"
static const struct {
    curve_id curve;
    hash_id hash;
    const char *key, *msg, *r, *s;
} public_ecdsa_rows[] = {
    {P256, SHA256, PUBLIC_KEY_A25, "sample",
     "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716",
     "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"},
    {P256, SHA384, PUBLIC_KEY_A25, "sample",
     "0eafea039b20e9b42309fb1d89e213057cbf973dc0cfc8f129edddc800ef7719",
     "4861f0491e6998b9455193e34e7b0d284ddd7149a74b95b9261f13abde940954"},
    {P256, SHA512, PUBLIC_KEY_A25, "sample",
     "8496a60b5e9b47c825488827e0495b0e3fa109ec4568fd3f8d1097678eb97f00",
     "2362ab1adbe2b8adf9cb9edab740ea6049c028114f2460f96554f61fae3302fe"},
    {P256, SHA256, PUBLIC_KEY_A25, "test",
     "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367",
     "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083"},
    {P384, SHA256, PUBLIC_KEY_A26, "sample",
     "21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888"
     "e63355d92fa2b3c36d8fb2cd",
     "f3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63ec"
     "cd1ac42ec0cb8668a4fa0ab0"},
    {P384, SHA384, PUBLIC_KEY_A26, "sample",
     "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a64815"
     "2e44acf96e36dd1e80fabe46",
     "99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145"
     "786e679e7b82c71a38628ac8"},
};

static err public_ecdsa(curve_id c, const pub_bytes *key, hash_id id, str msg, str r, str s)
{
    u8 digest[HASH_MAX];
    hash_of(id, msg, digest);
    return ecdsa_verify(c, bytes_str(key), (str){digest, hash_size(id)}, r, s);
}

static void test_public_ecdsa_vectors(void)
{
    for (iz i = 0; i < countof(public_ecdsa_rows); i++) {
        curve_id c = public_ecdsa_rows[i].curve;
        hash_id id = public_ecdsa_rows[i].hash;
        iz n = 8 * curve_limbs(c);
        pub_bytes key = bytes_of_hex(public_ecdsa_rows[i].key),
                  r = bytes_of_hex(public_ecdsa_rows[i].r);
        pub_bytes s = bytes_of_hex(public_ecdsa_rows[i].s);
        str msg = {(const u8 *)public_ecdsa_rows[i].msg, (iz)strlen(public_ecdsa_rows[i].msg)};
        CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&r), bytes_str(&s)) == E_None);
        /* one bit changed in each part; a changed point is off its curve */
        for (iz bit = 0; bit < 8 * n; bit += 37) {
            pub_bytes *part[] = {&r, &s};
            for (iz p = 0; p < 2; p++) {
                part[p]->buf[bit / 8] ^= (u8)(1 << bit % 8);
                CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&r), bytes_str(&s)) ==
                      E_SignatureBad);
                part[p]->buf[bit / 8] ^= (u8)(1 << bit % 8);
            }
            key.buf[1 + bit / 4] ^= (u8)(1 << bit % 8);
            CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&r), bytes_str(&s)) == E_PointInvalid);
            key.buf[1 + bit / 4] ^= (u8)(1 << bit % 8);
        }
        CHECK(public_ecdsa(c, &key, id, S("Sample"), bytes_str(&r), bytes_str(&s)) ==
              E_SignatureBad);
        CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&s), bytes_str(&r)) == E_SignatureBad);
        CHECK(public_ecdsa(c == P256 ? P384 : P256, &key, id, msg, bytes_str(&r), bytes_str(&s)) ==
              E_PointInvalid);
        /* leading zeros do not count; n - s is as good as s; s + n and r + n are out of range */
        pub_bytes long_r = {.len = r.len + 3};
        memcpy(long_r.buf + 3, r.buf, (size_t)r.len);
        CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&long_r), bytes_str(&s)) == E_None);
        u64 v[FIELD_LIMBS];
        pub_bytes other = {.len = n};
        limbs_read(v, n / 8, bytes_str(&s));
        limbs_difference(v, curves[c].order, v, n / 8);
        limbs_write(other.buf, n, v);
        CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&r), bytes_str(&other)) == E_None);
        u64 sum[FIELD_LIMBS + 1];
        limbs_read(v, n / 8, bytes_str(&r));
        sum[n / 8] = limbs_sum(sum, v, curves[c].order, n / 8);
        other.len = n + 1;
        limbs_write(other.buf, n + 1, sum);
        CHECK(public_ecdsa(c, &key, id, msg, bytes_str(&other), bytes_str(&s)) == E_SignatureBad);
    }
}

static void test_public_ecdsa_ranges(void)
{
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        iz n = curve_limbs(c), row = c == P256 ? 0 : 5;
        pub_bytes key = bytes_of_hex(public_ecdsa_rows[row].key),
                  r = bytes_of_hex(public_ecdsa_rows[row].r);
        pub_bytes s = bytes_of_hex(public_ecdsa_rows[row].s);
        hash_id id = public_ecdsa_rows[row].hash;
        u64 order[FIELD_LIMBS + 1] = {0}, one[FIELD_LIMBS + 1] = {1};
        memcpy(order, curves[c].order, (size_t)n * 8);
        pub_bytes bad[6] = {{.len = 0},     {.len = 1},     {.len = 8 * n},
                            {.len = 8 * n}, {.len = 8 * n}, {.len = 8 * n + 1}};
        limbs_write(bad[2].buf, 8 * n, order);
        limbs_add(order, one, n);
        limbs_write(bad[3].buf, 8 * n, order);
        memset(bad[4].buf, 0xff, (size_t)(8 * n));
        bad[5].buf[0] = 1;
        for (iz i = 0; i < countof(bad); i++) {
            CHECK(public_ecdsa(c, &key, id, S("sample"), bytes_str(&bad[i]), bytes_str(&s)) ==
                  E_SignatureBad);
            CHECK(public_ecdsa(c, &key, id, S("sample"), bytes_str(&r), bytes_str(&bad[i])) ==
                  E_SignatureBad);
            CHECK(public_ecdsa(c, &key, id, S("sample"), bytes_str(&bad[i]), bytes_str(&bad[i])) ==
                  E_SignatureBad);
        }
    }
    /* A digest of zeros and key G: u1 = 0, and s = r = x(G) signs it. */
    for (int ci = 0; ci < 2; ci++) {
        curve_id c = public_curves[ci];
        iz n = curve_limbs(c);
        public_multiples(c, public_all);
        const pub_bytes *g = &public_all[PUBLIC_STEPS + 1];
        str x = {g->buf + 1, 8 * n};
        static const u8 zeros[64];
        u64 v[FIELD_LIMBS];
        limbs_read(v, n, x);
        CHECK(limbs_less(v, curves[c].order, n));
        CHECK(ecdsa_verify(c, bytes_str(g), (str){zeros, 32}, x, x) == E_None);
        CHECK(ecdsa_verify(c, bytes_str(g), (str){zeros, 0}, x, x) == E_None);
        CHECK(ecdsa_verify(c, bytes_str(g), (str){zeros, 64}, x, x) == E_None);
        /* digest = r and key -G: u1 G - u2 G is infinity for every s */
        const pub_bytes *minus_g = &public_all[PUBLIC_STEPS - 1];
        CHECK(ecdsa_verify(c, bytes_str(minus_g), x, x, x) == E_SignatureBad);
        CHECK(ecdsa_verify(c, bytes_str(minus_g), x, x, S("\1")) == E_SignatureBad);
        /* digest = r and key G: the sum is 2 (r / s) G, so that s = 2r gives G again */
        u64 twice[FIELD_LIMBS];
        pub_bytes s = {.len = 8 * n};
        if (limbs_sum(twice, v, v, n) || !limbs_less(twice, curves[c].order, n))
            limbs_sub(twice, curves[c].order, n);
        limbs_write(s.buf, 8 * n, twice);
        CHECK(ecdsa_verify(c, bytes_str(g), x, x, bytes_str(&s)) == E_None);
        CHECK(ecdsa_verify(c, bytes_str(g), x, x, x) == E_SignatureBad);
    }
}

/* Points whose coordinates lie where a missing check would show. y_small has y below 2^bits - p,
 * and y_large is the same with y + p. near has x = order + above. low has a small x. A digest of
 * zeros and s = r make u1 = 0 and u2 = 1, so that the sum is the key itself: r = x mod order is a
 * signature. */
static void test_public_ecdsa_edges(void)
{
    static const struct {
        curve_id curve;
        u8 above, low_x;
        const char *y_small, *y_large, *near, *low, *low_r; /* low_r + order = low_x + p */
    } rows[] = {
        {P256, 3, 5,
         "04d7325d7646cd60d80a92738ceb345f844cffaf35841022cab176f692de8de1d7000000"
         "0000000000000000000000000000000000000000000000000000000005",
         "04d7325d7646cd60d80a92738ceb345f844cffaf35841022cab176f692de8de1d7ffffff"
         "ff00000001000000000000000000000001000000000000000000000004",
         "04ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632554484f0c"
         "0fda434ef0a808458914f328715d7a545e198ac7eee31dffe861b5d23f",
         "040000000000000000000000000000000000000000000000000000000000000005459243"
         "b9aa581806fe913bce99817ade11ca503c64d9a3c533415c083248fbcc",
         "000000000000000000000000000000004319055358e8617b0c46353d039cdab3"},
        {P384, 2, 2,
         "04742b1363c46dbf7b0856f75f64c464dcbe246ff7966c1498faa711c4cf9c00f1e800d9"
         "3cc04a3455923800cf11c812f40000000000000000000000000000000000000000000000"
         "00000000000000000000000000000000000000000000000002",
         "04742b1363c46dbf7b0856f75f64c464dcbe246ff7966c1498faa711c4cf9c00f1e800d9"
         "3cc04a3455923800cf11c812f4ffffffffffffffffffffffffffffffffffffffffffffff"
         "fffffffffffffffffeffffffff000000000000000100000001",
         "04ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0d"
         "b248b0a77aecec196accc52975674db71d55d1948b3c7d4c562474ad137465f9605bc7c6"
         "7cb9fab6bf9f3ca2ef87d56a8d920568aa26f7eaf13ee70a45",
         "040000000000000000000000000000000000000000000000000000000000000000000000"
         "000000000000000000000000028cdeadbbd04911a3c1931e26df3fa6439dca9c7eb286fb"
         "d46fc319f0e2bb780232baf57825fc0c1912ada2fefe84024c",
         "000000000000000000000000000000000000000000000000389cb27e0bc8d21fa7e5f24c"
         "b74f58851313e696333ad68e"},
    };
    static const u8 zeros[64];
    const str digest = {zeros, 64};
    for (iz i = 0; i < countof(rows); i++) {
        curve_id c = rows[i].curve;
        iz n = 8 * curve_limbs(c);
        point p;
        pub_bytes key = bytes_of_hex(rows[i].y_small);
        CHECK(point_read(c, &p, bytes_str(&key)) == E_None);
        key = bytes_of_hex(rows[i].y_large);
        CHECK(key.len == 1 + 2 * n && point_read(c, &p, bytes_str(&key)) == E_PointInvalid);

        key = bytes_of_hex(rows[i].near);
        str r = {&rows[i].above, 1}, x = {key.buf + 1, n};
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, r, r) == E_None);
        /* r is not below the order; then s */
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, x, r) == E_SignatureBad);
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, r, x) == E_SignatureBad);
        pub_bytes wide = {.len = n + 1};
        wide.buf[0] = 1;
        wide.buf[n] = rows[i].above; /* 2^bits + r */
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, bytes_str(&wide), r) == E_SignatureBad);
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, r, bytes_str(&wide)) == E_SignatureBad);

        key = bytes_of_hex(rows[i].low);
        r = (str){&rows[i].low_x, 1};
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, r, r) == E_None);
        pub_bytes low_r = bytes_of_hex(rows[i].low_r);
        CHECK(ecdsa_verify(c, bytes_str(&key), digest, bytes_str(&low_r), bytes_str(&low_r)) ==
              E_SignatureBad);
    }
}

static void test_public_point_refused(void)
{
    static const u8 secret[32] = {[31] = 7};
    pub_bytes good = bytes_of_hex(PUBLIC_KEY_A25);
    u8 out[32];
    CHECK(p256_ecdh(out, secret, bytes_str(&good)) == E_None);
    for (iz len = 0; len < 70; len++) /* every other length */
        CHECK(len == 65 || p256_ecdh(out, secret, (str){good.buf, len}) == E_PointInvalid);
    for (int first = 0; first < 256; first++) { /* every other form: infinity, compressed, hybrid */
        good.buf[0] = (u8)first;
        CHECK(first == 4 || p256_ecdh(out, secret, bytes_str(&good)) == E_PointInvalid);
        CHECK(first == 4 || first == 0 ||
              p256_ecdh(out, secret, (str){good.buf, 33}) == E_PointInvalid);
    }
    static const char *rows[] = {
        /* (0, 0); x = p and x = p + 5 for the points with x = 0 and 5; y = p; y + 1; x and y
         * changed;
         * all ones */
        "040000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000",
        "04ffffffff00000001000000000000000000000000ffffffffffffffffffffffff66485c"
        "780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4",
        "04ffffffff00000001000000000000000000000001000000000000000000000004459243"
        "b9aa581806fe913bce99817ade11ca503c64d9a3c533415c083248fbcc",
        "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6ffffff"
        "ff00000001000000000000000000000000ffffffffffffffffffffffff",
        "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe"
        "1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d446229a",
        "047903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d446229960fed4"
        "ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
        "04ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    };
    for (iz i = 0; i < countof(rows); i++) {
        pub_bytes p = bytes_of_hex(rows[i]);
        CHECK(p.len == 65 && p256_ecdh(out, secret, bytes_str(&p)) == E_PointInvalid);
        CHECK(ecdsa_verify(P256, bytes_str(&p), S("x"), S("\1"), S("\1")) == E_PointInvalid);
    }
    /* ... and these points themselves are good */
    pub_bytes zero =
        bytes_of_hex("04000000000000000000000000000000000000000000000000000000000000000066485c"
                     "780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4");
    pub_bytes small =
        bytes_of_hex("040000000000000000000000000000000000000000000000000000000000000005459243"
                     "b9aa581806fe913bce99817ade11ca503c64d9a3c533415c083248fbcc");
    CHECK(p256_ecdh(out, secret, bytes_str(&zero)) == E_None);
    CHECK(p256_ecdh(out, secret, bytes_str(&small)) == E_None);
}

/* ---- RSA, with openssl for the private half ---- */

static char public_dir[] = "/tmp/publicXXXXXX";

static int public_sh(const char *format, const char *a, const char *b, int i)
{
    char input[700];
    snprintf(input, sizeof input, "cd %s && exec 2>/dev/null && ", public_dir);
    size_t at = strlen(input);
    snprintf(input + at, sizeof input - at, format, a, b, i);
    return system(input);
}

static pub_bytes public_file(const char *name)
{
    pub_bytes b = {.len = -1};
    char path[200];
    snprintf(path, sizeof path, "%s/%s", public_dir, name);
    FILE *f = fopen(path, "rb");
    if (f) {
        b.len = (iz)fread(b.buf, 1, sizeof b.buf, f);
        fclose(f);
    }
    return b;
}

static void public_put_file(const char *name, const u8 *data, iz n)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", public_dir, name);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(data, 1, (size_t)n, f);
        fclose(f);
    }
}

static int public_openssl(void)
{
    static int made;
    if (!made)
        made = mkdtemp(public_dir) && !public_sh("openssl version%s%s >ver", "", "", 0) ? 1 : -1;
    return made == 1;
}

/* A new RSA key in key.pem; *n is its modulus. */
static int public_rsa_key(int bits, const char *exponent, pub_bytes *n)
{
    /* with two primes openssl makes only moduli of an even number of bits */
    if (public_sh("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_pubexp:%s%s "
                  "-pkeyopt rsa_keygen_bits:%d "
                  "-out key.pem && openssl rsa -in key.pem -noout -modulus | cut -d= -f2 >modulus",
                  exponent, bits % 2 ? " -pkeyopt rsa_keygen_primes:3" : "", bits))
        return 0;
    pub_bytes text = public_file("modulus");
    iz digits = text.len - 1; /* an odd number if the first byte is below 16 */
    if (digits < 1)
        return 0;
    char even[2200];
    snprintf(even, sizeof even, "%s%.*s", digits % 2 ? "0" : "", (int)digits,
             (const char *)text.buf);
    *n = bytes_of_hex(even);
    return n->len > 0;
}

/* em^d mod n: openssl as it decrypts with no padding. */
static pub_bytes public_rsa_raw(const u8 *em, iz len)
{
    public_put_file("em", em, len);
    pub_bytes none = {.len = -1};
    if (public_sh("openssl pkeyutl -decrypt -inkey key.pem -in em -out sig "
                  "-pkeyopt rsa_padding_mode:none%s%s",
                  "", "", 0))
        return none;
    return public_file("sig");
}

typedef struct {
    const char *what;
    int at, from_end; /* em[at] or em[len - from_end], if that is not 0, ... */
    u8 flip;          /* ... is changed by this */
} public_change;

static void test_public_rsa_pkcs1_encoding(void)
{
    pub_bytes n;
    if (!public_openssl() || !public_rsa_key(2048, "65537", &n)) {
        skipped++;
        return;
    }
    const str e = S("\1\0\1");
    u8 digest[HASH_MAX], em[256];
    hash_of(SHA256, S("message"), digest);
    pub_bytes info =
        bytes_of_hex("3031300d060960864801650304020105000420"); /* RFC 8017, section 9.2, note 1 */
    memset(em, 0xff, sizeof em);
    em[0] = 0, em[1] = 1, em[256 - 52] = 0;
    memcpy(em + 256 - 51, info.buf, 19);
    memcpy(em + 256 - 32, digest, 32);
    pub_bytes sig = public_rsa_raw(em, 256);
    str d = {digest, 32};
    CHECK(rsa_verify(0, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_None);
    CHECK(rsa_verify(0, bytes_str(&n), S("\0\0\1\0\1"), SHA256, d, bytes_str(&sig)) == E_None);
    CHECK(rsa_verify(0, bytes_str(&n), S("\3"), SHA256, d, bytes_str(&sig)) == E_SignatureBad);
    CHECK(rsa_verify(0, bytes_str(&n), e, SHA384, d, bytes_str(&sig)) == E_SignatureBad);
    CHECK(rsa_verify(0, bytes_str(&n), e, SHA256, (str){digest, 31}, bytes_str(&sig)) ==
          E_SignatureBad);
    static const u8 long_digest[300];
    CHECK(rsa_verify(0, bytes_str(&n), e, SHA256, (str){long_digest, 300}, bytes_str(&sig)) ==
          E_SignatureBad);
    CHECK(rsa_verify(1, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad);
    static const public_change rows[] = {
        {"block type 0", 1, 0, 1},
        {"block type 2", 1, 0, 3},
        {"padding", 2, 0, 1},
        {"padding zero", 100, 0, 0xff},
        {"last of padding", 0, 53, 0x80},
        {"no zero", 0, 52, 0xff},
        {"sequence", 0, 51, 1},
        {"length", 0, 50, 1},
        {"inner length", 0, 48, 1},
        {"oid", 0, 37, 1},
        {"null's tag", 0, 36, 1},
        {"null's length", 0, 35, 1},
        {"octet string", 0, 34, 1},
        {"digest length", 0, 33, 1},
        {"digest first", 0, 32, 1},
        {"digest last", 0, 1, 1},
        {"digest middle", 0, 16, 0x10},
        {"first byte", 0, 256, 1},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 *byte = &em[rows[i].from_end ? 256 - rows[i].from_end : rows[i].at];
        *byte ^= rows[i].flip;
        sig = public_rsa_raw(em, 256);
        check_at(__FILE__, __LINE__,
                 sig.len == 256 &&
                     rsa_verify(0, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad,
                 rows[i].what);
        *byte ^= rows[i].flip;
    }
    /* other shapes: without the NULL; padding shortened with garbage behind; digest alone */
    static const struct {
        const char *what, *info;
        int garbage;
    } shapes[] = {
        {"no NULL",
         "302f300b0609608648016503040201"
         "0420",
         0},
        {"garbage at the end", "3031300d060960864801650304020105000420", 8},
        {"long form of a length", "308131300d060960864801650304020105000420", 0},
        {"no DigestInfo", "", 0},
    };
    for (iz i = 0; i < countof(shapes); i++) {
        u8 shape[256];
        pub_bytes head = bytes_of_hex(shapes[i].info);
        iz tail = head.len + 32 + shapes[i].garbage;
        memset(shape, 0xff, 256);
        shape[0] = 0, shape[1] = 1, shape[255 - tail] = 0;
        memcpy(shape + 256 - tail, head.buf, (size_t)head.len);
        memcpy(shape + 256 - tail + head.len, digest, 32);
        sig = public_rsa_raw(shape, 256);
        check_at(__FILE__, __LINE__,
                 sig.len == 256 &&
                     rsa_verify(0, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad,
                 shapes[i].what);
    }
}

/* EMSA-PSS (RFC 8017, section 9.1.1) with a salt of `salt` bytes, of em_bits bits. */
static void public_pss_encode(u8 *em, iz em_bits, const u8 digest[32], iz salt)
{
    iz len = (em_bits + 7) / 8, db = len - 33;
    u8 text[8 + 32 + 64] = {0};
    memcpy(text + 8, digest, 32);
    memset(text + 40, 0x5a, (size_t)salt);
    memset(em, 0, (size_t)len);
    em[db - salt - 1] = 1;
    memset(em + db - salt, 0x5a, (size_t)salt);
    hash_of(SHA256, (str){text, 40 + salt}, em + db);
    em[len - 1] = 0xbc;
}

/* The mask that PSS lays over the first part, then the signature. */
static pub_bytes public_pss_sign(const u8 *plain, iz em_bits, iz n_len, int top_bits)
{
    iz len = (em_bits + 7) / 8, db = len - 33;
    u8 em[512] = {0}, *out = em + (n_len - len);
    memcpy(out, plain, (size_t)len);
    for (iz i = 0; i < db; i += 32) {
        u8 seed[36] = {0}, mask[HASH_MAX];
        memcpy(seed, out + db, 32);
        seed[35] = (u8)(i / 32);
        hash_of(SHA256, (str){seed, 36}, mask);
        for (iz j = 0; j < 32 && i + j < db; j++)
            out[i + j] ^= mask[j];
    }
    out[0] &= (u8)(0xff >> (8 * len - em_bits));
    out[0] |= (u8)top_bits;
    return public_rsa_raw(em, n_len);
}

static void test_public_rsa_pss_encoding(void)
{
    static const int sizes[] = {2048, 2049, 2055, 2056};
    const str e = S("\1\0\1");
    u8 digest[HASH_MAX], em[512];
    hash_of(SHA256, S("message"), digest);
    str d = {digest, 32};
    for (iz k = 0; k < countof(sizes); k++) {
        pub_bytes n;
        if (!public_openssl() || !public_rsa_key(sizes[k], "65537", &n)) {
            skipped++;
            continue;
        }
        iz bits = sizes[k] - 1, len = (bits + 7) / 8, db = len - 33;
        public_pss_encode(em, bits, digest, 32);
        pub_bytes sig = public_pss_sign(em, bits, n.len, 0);
        CHECK(n.len == (sizes[k] + 7) / 8 && sig.len == n.len);
        CHECK(rsa_verify(1, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_None);
        CHECK(rsa_verify(1, bytes_str(&n), e, SHA384, d, bytes_str(&sig)) == E_SignatureBad);
        CHECK(rsa_verify(1, bytes_str(&n), e, SHA256, (str){digest, 31}, bytes_str(&sig)) ==
              E_SignatureBad);
        CHECK(rsa_verify(0, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad);
        if (bits %
            8) { /* the leftmost bit that has to be zero; n's first byte allows for it or not */
            sig = public_pss_sign(em, bits, n.len, 0x80 >> (8 * len - bits - 1));
            CHECK(sig.len < 0 ||
                  rsa_verify(1, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad);
        }
        const public_change rows[] = {
            {"trailer", 0, (int)1, 1},     {"hash", (int)db, 0, 1},
            {"hash's end", 0, 2, 1},       {"padding's end", (int)db - 34, 0, 1},
            {"padding", 60, 0, 0x80},      {"first byte", 0, 0, 1},
            {"no 01", (int)db - 33, 0, 1}, {"02", (int)db - 33, 0, 3},
            {"salt", (int)db - 1, 0, 1},   {"salt's start", (int)db - 32, 0, 1},
        };
        for (iz i = 0; i < countof(rows); i++) {
            u8 *byte = &em[rows[i].from_end ? len - rows[i].from_end : rows[i].at];
            if (byte == em && 8 * len - bits == 7) /* there the whole byte but one bit is cut off */
                continue;
            *byte ^= rows[i].flip;
            sig = public_pss_sign(em, bits, n.len, 0);
            check_at(__FILE__, __LINE__,
                     sig.len == n.len && rsa_verify(1, bytes_str(&n), e, SHA256, d,
                                                    bytes_str(&sig)) == E_SignatureBad,
                     rows[i].what);
            *byte ^= rows[i].flip;
        }
        static const int salts[] = {0, 20, 31, 33, 64};
        for (iz i = 0; i < countof(salts); i++) {
            public_pss_encode(em, bits, digest, salts[i]);
            sig = public_pss_sign(em, bits, n.len, 0);
            CHECK(sig.len == n.len);
            CHECK(rsa_verify(1, bytes_str(&n), e, SHA256, d, bytes_str(&sig)) == E_SignatureBad);
        }
    }
}

static void test_public_rsa_keys_refused(void)
{
    static u8 n[600], sig[600];
    memset(n, 0xff, sizeof n);
    const str e = S("\1\0\1");
    u8 digest[HASH_MAX];
    hash_of(SHA256, S("message"), digest);
    str d = {digest, 32};
    static const struct {
        int len;
        u8 first, last;
        err want;
    } rows[] = {
        {0, 0, 0, E_RsaSize},      {1, 1, 1, E_RsaSize},        {128, 0xff, 1, E_RsaSize},
        {255, 0xff, 1, E_RsaSize}, {256, 0x7f, 1, E_RsaSize},   {256, 0x80, 1, E_SignatureBad},
        {256, 0x80, 2, E_RsaSize}, {257, 1, 1, E_SignatureBad}, {512, 0xff, 1, E_SignatureBad},
        {512, 0xff, 0, E_RsaSize}, {513, 1, 1, E_RsaSize},      {513, 0, 1, E_SignatureBad},
        {600, 0xff, 1, E_RsaSize}, {257, 0, 1, E_SignatureBad}, {256, 0, 1, E_RsaSize},
    };
    for (iz i = 0; i < countof(rows); i++) {
        iz len = rows[i].len;
        if (len) {
            n[0] = rows[i].first;
            n[len - 1] = len == 1 ? rows[i].first : rows[i].last;
        }
        iz real = len - (len && !n[0]);
        CHECK(rsa_verify(0, (str){n, len}, e, SHA256, d, (str){sig, real}) == rows[i].want);
        CHECK(rsa_verify(1, (str){n, len}, e, SHA256, d, (str){sig, real}) == rows[i].want);
        if (len)
            n[0] = 0xff, n[len - 1] = 0xff;
    }
    static const struct {
        str e;
        err want;
    } exponents[] = {
        {{(const u8 *)"", 0}, E_RsaExponent},
        {{(const u8 *)"\0", 1}, E_RsaExponent},
        {{(const u8 *)"\1", 1}, E_RsaExponent},
        {{(const u8 *)"\2", 1}, E_RsaExponent},
        {{(const u8 *)"\3", 1}, E_SignatureBad},
        {{(const u8 *)"\1\0\0", 3}, E_RsaExponent},
        {{(const u8 *)"\0\1\0\1", 4}, E_SignatureBad},
        {{(const u8 *)"\xff\xff\xff\xff", 4}, E_SignatureBad},
        {{(const u8 *)"\1\0\0\0\1", 5}, E_RsaExponent},
    };
    for (iz i = 0; i < countof(exponents); i++)
        CHECK(rsa_verify(0, (str){n, 256}, exponents[i].e, SHA256, d, (str){sig, 256}) ==
              exponents[i].want);
    /* signatures as large as n, larger, and of another length */
    memset(sig, 0xff, sizeof sig);
    CHECK(rsa_verify(0, (str){n, 256}, e, SHA256, d, (str){n, 256}) == E_SignatureBad);
    n[0] = 0x80;
    CHECK(rsa_verify(0, (str){n, 256}, e, SHA256, d, (str){sig, 256}) == E_SignatureBad);
    for (iz len = 0; len < 600; len += 51)
        CHECK(rsa_verify(0, (str){n, 256}, e, SHA256, d, (str){sig, len}) == E_SignatureBad);
}

static void test_public_rsa_oracle(void)
{
    static const struct {
        int bits;
        const char *e, *e_bytes;
        int e_len;
    } keys[] = {{2048, "3", "\3", 1},
                {3072, "65537", "\1\0\1", 3},
                {2560, "4294967295", "\xff\xff\xff\xff", 4}};
    for (iz k = 0; k < countof(keys); k++) {
        pub_bytes n;
        if (!public_openssl() || !public_rsa_key(keys[k].bits, keys[k].e, &n)) {
            skipped++;
            continue;
        }
        str e = {(const u8 *)keys[k].e_bytes, keys[k].e_len};
        for (int round = 0; round < public_oracle_rounds; round++) {
            hash_id id = (hash_id)(round % 3);
            static const char *names[] = {"sha256", "sha384", "sha512"};
            u8 msg[100], digest[HASH_MAX];
            for (iz i = 0; i < 100; i++)
                msg[i] = (u8)public_random();
            public_put_file("msg", msg, 100);
            hash_of(id, (str){msg, 100}, digest);
            str d = {digest, hash_size(id)};
            if (public_sh("openssl dgst -%s -sign key.pem -out sig msg && openssl dgst -%s -sigopt "
                          "rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -sign key.pem "
                          "-out pss msg",
                          names[id], names[id], 0)) {
                check_at(__FILE__, __LINE__, 0, "openssl signs");
                continue;
            }
            pub_bytes sig = public_file("sig"), pss = public_file("pss");
            CHECK(rsa_verify(0, bytes_str(&n), e, id, d, bytes_str(&sig)) == E_None);
            CHECK(rsa_verify(1, bytes_str(&n), e, id, d, bytes_str(&pss)) == E_None);
            iz at = (iz)(public_random() % (u64)sig.len);
            sig.buf[at] ^= 4, pss.buf[at] ^= 4;
            CHECK(rsa_verify(0, bytes_str(&n), e, id, d, bytes_str(&sig)) == E_SignatureBad);
            CHECK(rsa_verify(1, bytes_str(&n), e, id, d, bytes_str(&pss)) == E_SignatureBad);
        }
    }
}

/* ---- ECDSA, from the DER of the signature on ---- */

static err vector_ecdsa(curve_id c, hash_id id, str key, str msg, str der)
{
    public_key k = {.id = (key_id)(KEY_P256 + c), .point = key};
    err error = key_verify(&k, (sig_id)(ECDSA_SHA256 + id), msg, der);
    return error == E_DerMalformed ? E_SignatureBad : error;
}

static void test_public_ec_oracle(void)
{
    static const char *curve_names[] = {"prime256v1", "secp384r1"},
                      *hashes[] = {"sha256", "sha384", "sha512"};
    for (int round = 0; round < public_oracle_rounds; round++) {
        curve_id c = public_curves[round % 2];
        hash_id id = (hash_id)(round / 2 % 3);
        iz n = 16 * curve_limbs(c) + 1;
        u8 msg[50];
        for (iz i = 0; i < 50; i++)
            msg[i] = (u8)public_random();
        if (!public_openssl()) {
            skipped++;
            return;
        }
        public_put_file("msg", msg, 50);
        if (public_sh("openssl ecparam -genkey -noout -name %s -out ec.pem && "
                      "openssl dgst -%s -sign ec.pem -out sig "
                      "msg && openssl ec -in ec.pem -pubout -outform DER -out pub",
                      curve_names[c], hashes[id], 0)) {
            check_at(__FILE__, __LINE__, 0, "openssl signs");
            continue;
        }
        pub_bytes pub = public_file("pub"), sig = public_file("sig");
        str key = {pub.buf + pub.len - n, n};
        CHECK(vector_ecdsa(c, id, key, (str){msg, 50}, bytes_str(&sig)) == E_None);
        msg[round % 50] ^= 1;
        CHECK(vector_ecdsa(c, id, key, (str){msg, 50}, bytes_str(&sig)) == E_SignatureBad);
        if (c != P256)
            continue;
        /* agreement with openssl's key; our public half goes there in DER */
        u8 secret[32], own[65], shared[32];
        for (iz i = 0; i < 32; i++)
            secret[i] = (u8)public_random();
        secret[0] &= 0x7f;
        CHECK(p256_public(own, secret) == E_None && p256_ecdh(shared, secret, key) == E_None);
        memcpy(pub.buf + pub.len - n, own, 65);
        public_put_file("own", pub.buf, pub.len);
        if (public_sh("openssl pkey -pubin -inform DER -in own -out own.pem && "
                      "openssl pkeyutl -derive -inkey ec.pem "
                      "-peerkey own.pem -out shared%s%s",
                      "", "", 0)) {
            check_at(__FILE__, __LINE__, 0, "openssl agrees");
            continue;
        }
        pub_bytes want = public_file("shared");
        CHECK(want.len == 32 && !memcmp(want.buf, shared, 32));
    }
}

/* ---- vectors.md ---- */

/* The value of a name in a line of name=value pairs, in hexadecimal; len -1 if it is not there. */
static pub_bytes vector_value(const char *input, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = input; at; at = strchr(at, ' ')) {
        at += *at == ' ';
        if (!strncmp(at, name, n) && at[n] == '=')
            return bytes_of_hex(at + n + 1);
    }
    pub_bytes none = {.len = -1};
    return none;
}

/* "sha256" and so on, up to a blank. */
static int pub_vector_hash(const char *name, hash_id *id)
{
    static const char *names[] = {"sha256 ", "sha384 ", "sha512 "};
    for (int i = 0; i < 3; i++)
        if (!strncmp(name, names[i], 7)) {
            *id = (hash_id)i;
            return 1;
        }
    return 0;
}

/* A row of ecdh-p256, ecdsa-p256|p384-sha..., rsa-pkcs1|pss-sha...: 1 valid, 0 invalid, -1 it is
 * none of these or cannot be read. Rows of key exchange are valid if the result is the one given.
 * */
static int vector_public(const char *input)
{
    const char *alg = strstr(input, "alg=");
    hash_id id;
    if (!alg)
        return -1;
    alg += 4;
    pub_bytes msg = vector_value(input, "msg"), sig = vector_value(input, "sig");
    if (!strncmp(alg, "ecdh-p256 ", 10)) {
        pub_bytes secret = vector_value(input, "private"), peer = vector_value(input, "public");
        pub_bytes shared = vector_value(input, "shared");
        u8 out[32];
        if (secret.len != 32 || peer.len < 0 || shared.len < 0)
            return -1;
        return p256_ecdh(out, secret.buf, bytes_str(&peer)) == E_None && shared.len == 32 &&
               !memcmp(out, shared.buf, 32);
    }
    if (msg.len < 0 || sig.len < 0)
        return -1;
    if (!strncmp(alg, "ecdsa-p", 7) && pub_vector_hash(alg + 11, &id)) {
        pub_bytes key = vector_value(input, "key");
        int size = atoi(alg + 7);
        if (key.len < 0 || (size != 256 && size != 384))
            return -1;
        return vector_ecdsa(size == 256 ? P256 : P384, id, bytes_str(&key), bytes_str(&msg),
                            bytes_str(&sig)) == E_None;
    }
    int pkcs1 = !strncmp(alg, "rsa-pkcs1-", 10), pss = !strncmp(alg, "rsa-pss-", 8);
    if ((pkcs1 || pss) && pub_vector_hash(alg + (pkcs1 ? 10 : 8), &id)) {
        pub_bytes n = vector_value(input, "n"), e = vector_value(input, "e");
        u8 digest[HASH_MAX];
        if (n.len < 0 || e.len < 0)
            return -1;
        hash_of(id, bytes_str(&msg), digest);
        str d = {digest, hash_size(id)};
        return rsa_verify(pss, bytes_str(&n), bytes_str(&e), id, d, bytes_str(&sig)) == E_None;
    }
    return -1;
}

static void test_public_der_signature(void)
{
    static const struct {
        const char *der;
        int good;
    } rows[] = {
        {"3006020101020101", 1},
        {"30080202008002020080", 1},
        {"", 0},
        {"30", 0},
        {"3006020101020181", 0},
        {"300602010102010100", 0},
        {"3007020101020101", 0},
        {"3005020101020101", 0},
        {"308106020101020101", 0},
        {"3080020101020101", 0},
        {"300702020001020101", 0},
        {"300502000201"
         "01",
         0},
        {"3003020101", 0},
        {"3106020101020101", 0},
        {"3006030101020101", 0},
        {"3009020101020101020101", 0},
        {"30070281010102"
         "0101",
         0},
        {"3006020102020101", 1},
        {"3006020101020201", 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        pub_bytes b = bytes_of_hex(rows[i].der);
        str r, s;
        check_at(__FILE__, __LINE__, (der_pair(bytes_str(&b), &r, &s) == E_None) == rows[i].good,
                 rows[i].der);
    }
}

/* ---- section 7: DER and X.509 ---- */

/* ---- helpers ---- */

/* Bytes of hexadecimal text up to a comma, blank or the end, freshly allocated. */
static str unhex(const char *text)
{
    size_t n = strspn(text, "0123456789abcdef") / 2;
    u8 *out = malloc(n + 1);
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], 0};
        out[i] = (u8)strtoul(pair, 0, 16);
    }
    return (str){out, (iz)n};
}

/* A list of DER in hexadecimal, joined by commas; gives the count. */
static iz unhex_list(const char *text, str *out, iz cap)
{
    iz n = 0;
    while (*text && *text != ' ' && *text != '\n' && n < cap) {
        out[n++] = unhex(text);
        text += strspn(text, "0123456789abcdef");
        text += *text == ',';
    }
    return n;
}

/* Adds a certificate to a bundle in PEM, in lines of `width`. */
static void pem_put(writer *w, str der, iz width, const char *line_end)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    str nl = {(const u8 *)line_end, (iz)strlen(line_end)};
    put(w, S("-----BEGIN CERTIFICATE-----"));
    iz at_column = width;
    for (iz i = 0; i < der.len; i += 3) {
        iz left = der.len - i;
        u32 v = (u32)der.ptr[i] << 16 | (left > 1 ? (u32)der.ptr[i + 1] << 8 : 0) |
                (left > 2 ? der.ptr[i + 2] : 0);
        for (iz j = 0; j < 4; j++) {
            if (at_column == width)
                put(w, nl), at_column = 0;
            put_byte(w, left < j ? '=' : (u8)alphabet[v >> (18 - 6 * j) & 63]);
            at_column++;
        }
    }
    put(w, nl);
    put(w, S("-----END CERTIFICATE-----"));
    put(w, nl);
}

/* The row handler for alg=x509 of vectors.md: the line's fields in text. Accepted or not. */
static err x509_row_error;
static iz x509_row_checks;
static int x509_row(const char *leaf, const char *chain, const char *roots, const char *host,
                    const char *when)
{
    enum { CERTS = 512, BUNDLE = 1 << 22 };
    static str certs[CERTS], anchors[CERTS];
    static u8 pem[BUNDLE];
    certs[0] = unhex(leaf);
    iz count = 1 + unhex_list(chain, certs + 1, CERTS - 1), n = unhex_list(roots, anchors, CERTS);
    writer w = writer_of(pem, BUNDLE);
    for (iz i = 0; i < n; i++)
        pem_put(&w, anchors[i], 64, "\n");
    str name = {(const u8 *)host, (iz)strcspn(host, " \n")};
    x509_query q = {.host = name, .bundle = written(&w), .now = atoll(when)};
    x509_row_error = x509_verify(&q, certs, count);
    x509_row_checks = q.checks;
    for (iz i = 0; i < count; i++)
        free((void *)certs[i].ptr);
    for (iz i = 0; i < n; i++)
        free((void *)anchors[i].ptr);
    return !x509_row_error;
}

/* A check that names the row of a table. */
static void check_row(int at_line, err want, err got, const char *what)
{
    char text[300];
    snprintf(text, sizeof text, "%s: expected %s, got %s", what, unit_error(want), unit_error(got));
    check_at(__FILE__, at_line, want == got, text);
}

/* Bytes of hexadecimal text, blanks passed over, into a writer. */
static void put_hex(writer *w, const char *hex)
{
    for (; *hex; hex++)
        if (*hex != ' ') {
            char pair[3] = {hex[0], hex[1], 0};
            put_byte(w, (u8)strtoul(pair, 0, 16));
            hex++;
        }
}

/* An item with its length as DER wants it. */
static void put_item(writer *w, u8 tag, str contents)
{
    put_byte(w, tag);
    if (contents.len >= 0x80) {
        iz n = contents.len > 0xffff ? 3 : contents.len > 0xff ? 2 : 1;
        put_byte(w, (u8)(0x80 + n));
        put_be(w, (u64)contents.len, n);
    } else {
        put_byte(w, (u8)contents.len);
    }
    put(w, contents);
}

static void test_x509_der_forms(void)
{
    /* i: der_integer, u: der_unsigned, f: der_flag, b: der_bits of whole bytes, k: of up to 7
     * bits unused, o: an OCTET STRING, x: any item */
    static const struct {
        char kind, hex[40];
        err want;
        char what[60];
    } rows[] = {
        {'x', "0400", E_None, "empty contents"},
        {'x', "1f8101 00", E_DerMalformed, "tag of several bytes"},
        {'x', "3f0100", E_DerMalformed, "the same, constructed"},
        {'x', "04800000", E_DerMalformed, "indefinite length"},
        {'x', "30800000", E_DerMalformed, "the same, constructed"},
        {'x', "0481017f", E_DerMalformed, "long form of a length under 128"},
        {'x', "04820001ff", E_DerMalformed, "length with a leading zero"},
        {'x', "0482007f", E_DerMalformed, "the same"},
        {'x', "048200ff", E_DerMalformed, "the same, for 255"},
        {'x', "0483000100", E_DerMalformed, "the same, of three bytes"},
        {'x', "048400000001ff", E_DerMalformed, "length of four bytes"},
        {'x', "0488ffffffffffffffff", E_DerMalformed, "length of eight bytes, all ones"},
        {'x', "04ff", E_DerMalformed, "length byte ff"},
        {'x', "0483ffffff00", E_Truncated, "16 MB that are not there"},
        {'x', "", E_Truncated, "nothing"},
        {'x', "04", E_Truncated, "tag alone"},
        {'x', "0401", E_Truncated, "contents missing"},
        {'x', "0481", E_Truncated, "length missing"},
        {'x', "048201", E_Truncated, "length cut"},
        {'o', "0401aa", E_None, "octet string"},
        {'o', "2403040100", E_DerMalformed, "constructed octet string"},
        {'o', "0501aa", E_DerMalformed, "another tag"},
        {'o', "8401aa", E_DerMalformed, "another class"},
        {'i', "020100", E_None, "zero"},
        {'i', "020180", E_None, "-128"},
        {'i', "02020080", E_None, "128"},
        {'i', "0200", E_DerMalformed, "integer without bytes"},
        {'i', "02020001", E_DerMalformed, "integer with a zero too many"},
        {'i', "0202ff80", E_DerMalformed, "integer with a ff too many"},
        {'i', "220302017f", E_DerMalformed, "constructed integer"},
        {'u', "0201ff", E_DerMalformed, "negative number"},
        {'u', "0202ff7f", E_DerMalformed, "negative number of two bytes"},
        {'u', "020200ff", E_None, "255"},
        {'f', "0101ff", E_None, "true"},
        {'f', "010100", E_DerMalformed, "explicit default"},
        {'f', "010101", E_DerMalformed, "true in BER only"},
        {'f', "0100", E_DerMalformed, "boolean without a byte"},
        {'f', "0102ffff", E_DerMalformed, "boolean of two bytes"},
        {'b', "030200aa", E_None, "bits"},
        {'b', "030100", E_None, "no bits"},
        {'b', "0300", E_Truncated, "bit string without its count"},
        {'b', "030201aa", E_DerMalformed, "bits that do not fill bytes"},
        {'k', "030201aa", E_None, "the same where allowed"},
        {'k', "030201ab", E_DerMalformed, "unused bit set"},
        {'k', "03020780", E_None, "one bit"},
        {'k', "030207c0", E_DerMalformed, "unused bit set"},
        {'k', "03020880", E_DerMalformed, "eight bits unused"},
        {'k', "030101", E_DerMalformed, "bits unused of none"},
        {'k', "2305 03030000aa", E_DerMalformed, "constructed bit string"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 buf[32];
        writer w = writer_of(buf, countof(buf));
        put_hex(&w, rows[i].hex);
        reader r = reader_of(written(&w));
        switch (rows[i].kind) {
        case 'x':
            der_item(&r, DER_ANY);
            break;
        case 'o':
            der_item(&r, DER_OCTET_STRING);
            break;
        case 'i':
            der_integer(&r);
            break;
        case 'u':
            der_unsigned(&r);
            break;
        case 'f':
            der_flag(&r);
            break;
        case 'b':
            der_bits(&r, 0);
            break;
        case 'k':
            der_bits(&r, 7);
            break;
        }
        check_row(__LINE__, rows[i].want, r.error, rows[i].what);
        check_row(__LINE__, E_None, reader_left(&r) ? E_Truncated : E_None, rows[i].what);
    }
    reader r = reader_of(S("\x02\x02\0\xff\x02\1\0"));
    CHECK(str_eq(der_unsigned(&r), S("\xff")) && str_eq(der_unsigned(&r), S("\0")) &&
          (!r.error && !reader_left(&r)));
    r = reader_of(S("\2\1\5"));
    CHECK(!der_flag(&r) && reader_left(&r) == 3 && !r.error);
    r = reader_of(S("\x30\3\2\1\5"));
    const u8 *end = der_enter(&r, DER_SEQUENCE);
    der_leave(&r, end);
    CHECK(r.error == E_DerMalformed);
}

static void test_x509_time(void)
{
    static const struct {
        char tag, text[20];
        err want;
        i64 seconds;
    } rows[] = {
        {23, "700101000000Z", E_None, 0},
        {23, "691231235959Z", E_None, -1},
        {23, "500101000000Z", E_None, -631152000},
        {23, "491231235959Z", E_None, 2524607999},
        {23, "000229120000Z", E_None, 951825600},
        {23, "240229000000Z", E_None, 1709164800},
        {23, "261123073000Z", E_None, 1795419000},
        {24, "20500101000000Z", E_None, 2524608000},
        {24, "20461006083956Z", E_None, 2422427996},
        {24, "21000228235959Z", E_None, 4107542399},
        {24, "99991231235959Z", E_None, 253402300799},
        {23, "230229000000Z", E_DerMalformed, 0},   /* not a leap year */
        {24, "21000229000000Z", E_DerMalformed, 0}, /* nor this */
        {23, "240230000000Z", E_DerMalformed, 0},
        {23, "240431000000Z", E_DerMalformed, 0},
        {23, "240631000000Z", E_DerMalformed, 0},
        {23, "240931000000Z", E_DerMalformed, 0},
        {23, "241131000000Z", E_DerMalformed, 0},
        {23, "240132000000Z", E_DerMalformed, 0},
        {23, "240832000000Z", E_DerMalformed, 0},
        {23, "241232000000Z", E_DerMalformed, 0},
        {23, "240100000000Z", E_DerMalformed, 0},
        {23, "240001000000Z", E_DerMalformed, 0},
        {23, "241301000000Z", E_DerMalformed, 0},
        {23, "240101240000Z", E_DerMalformed, 0},
        {23, "240101006000Z", E_DerMalformed, 0},
        {23, "240101000060Z", E_DerMalformed, 0}, /* a leap second */
        {23, "2401010000Z", E_DerMalformed, 0},   /* without seconds */
        {23, "240101000000", E_DerMalformed, 0},
        {23, "240101000000z", E_DerMalformed, 0},
        {23, "240101000000+0000", E_DerMalformed, 0},
        {23, "240101000000Z0", E_DerMalformed, 0},
        {23, "24 101000000Z", E_DerMalformed, 0},
        {23, "-40101000000Z", E_DerMalformed, 0},
        {23, "2401010000:0Z", E_DerMalformed, 0},
        {23, "20500101000000Z", E_DerMalformed, 0}, /* under the other tag */
        {24, "500101000000Z", E_DerMalformed, 0},
        {24, "20500101000000.0Z", E_DerMalformed, 0},
        {24, "2050010100Z", E_DerMalformed, 0},
        {24, "", E_DerMalformed, 0},
        {22, "700101000000Z", E_DerMalformed, 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 buf[32];
        writer w = writer_of(buf, countof(buf));
        put_item(&w, (u8)rows[i].tag, unit_str(rows[i].text));
        reader r = reader_of(written(&w));
        i64 got = der_time(&r);
        err error = r.error == E_Truncated ? E_DerMalformed : r.error;
        check_row(__LINE__, rows[i].want, error, rows[i].text);
        check_at(__FILE__, __LINE__, r.error || got == rows[i].seconds, rows[i].text);
    }
    /* every month's length, by the days since the month before */
    i64 before = 0;
    static const char days[] = {31, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30};
    for (int month = 1; month <= 12; month++) {
        u8 buf[32];
        char text[32];
        snprintf(text, sizeof text, "20%02d01000000Z", month);
        writer w = writer_of(buf, countof(buf));
        put_item(&w, DER_UTC_TIME, unit_str(text));
        reader r = reader_of(written(&w));
        i64 got = der_time(&r);
        CHECK(month == 1 || got - before == days[month - 1] * 86400);
        before = got;
    }
}

static void test_x509_host(void)
{
    static const struct {
        char pattern[40], host[40];
        int match;
    } rows[] = {
        {"example.com", "example.com", 1},
        {"EXAMPLE.com", "example.COM", 1},
        {"example.com", "www.example.com", 0},
        {"www.example.com", "example.com", 0},
        {"example.com", "example.org", 0},
        {"w.example.com", "x.example.com", 0},
        {"AZ-az.09.zone", "az-AZ.09.ZONE", 1},
        {"example.co", "example.com", 0},
        {"xexample.com", "example.com", 0},
        {"example.com.", "example.com", 0},
        {".example.com", "www.example.com", 0},
        {"*.example.com", "www.example.com", 1},
        {"*.EXAMPLE.com", "WWW.example.com", 1},
        {"*.example.com", "xn--hxa.example.com", 1},
        {"*.example.com", "example.com", 0},
        {"*.example.com", "a.b.example.com", 0},
        {"*.example.com", "wwwexample.com", 0},
        {"*.com", "example.com", 0},
        {"*.com", "www.example.com", 0},
        {"*.", "example", 0},
        {"*", "example", 0},
        {"*", "example.com", 0},
        {"**.example.com", "www.example.com", 0},
        {"*.*.example.com", "a.b.example.com", 0},
        {"*.*.com", "www.example.com", 0},
        {"w*.example.com", "www.example.com", 0},
        {"*w.example.com", "www.example.com", 0},
        {"www.*.com", "www.example.com", 0},
        {"www.example.*", "www.example.com", 0},
        {"*example.com", "www.example.com", 0},
        {"*www.example.com", "www.example.com", 0},
        {"127.0.0.1", "127.0.0.1", -1},
        {"a_b.example.com", "a_b.example.com", 1},
        {"localhost", "localhost", 1},
        {"1.2.3.example", "1.2.3.example", 1},
        /* what is no host name */
        {"", "", -1},
        {".", ".", -1},
        {"a..b", "a..b", -1},
        {".example.com", ".example.com", -1},
        {"example.com.", "example.com.", -1},
        {"*.example.com", "*.example.com", -1},
        {"a b", "a b", -1},
        {"a/b", "a/b", -1},
        {"a:1", "a:1", -1},
        {"\xc3\xa9.example", "\xc3\xa9.example", -1},
        {"example.1", "example.1", -1},
        {"1.2.3", "1.2.3", -1},
        {"2130706433", "2130706433", -1},
    };
    for (iz i = 0; i < countof(rows); i++) {
        str host = unit_str(rows[i].host);
        int got = !host_valid(host) ? -1 : name_covers(unit_str(rows[i].pattern), host);
        check_at(__FILE__, __LINE__, got == rows[i].match, rows[i].pattern);
    }
    CHECK(!host_valid(S("a\0b")));
    u8 name[254];
    memset(name, 'a', sizeof name);
    for (int i = 63; i < 254; i += 64)
        name[i] = '.';
    CHECK(host_valid((str){name, 253}) && !host_valid((str){name, 254}));
    name[63] = 'a';
    CHECK(!host_valid((str){name, 253}));
}

/* Puts GeneralSubtrees: "dns NAME", "ip HEX", "dn HEX", "mail TEXT", "uri TEXT", "raw HEX",
 * joined by commas. */
static void put_name(writer *w, const char *text)
{
    u8 buf[128];
    writer v = writer_of(buf, countof(buf));
    const char *value = strchr(text, ' ') + 1;
    if (*text == 'd' && text[1] == 'n' && text[2] == 's')
        put_item(w, 0x82, unit_str(value));
    else if (*text == 'm')
        put_item(w, 0x81, unit_str(value));
    else if (*text == 'u')
        put_item(w, 0x86, unit_str(value));
    else {
        put_hex(&v, value);
        if (*text == 'r')
            put(w, written(&v));
        else
            put_item(w, *text == 'i' ? 0x87 : 0xa4, written(&v));
    }
}

static void put_subtrees(writer *w, u8 tag, const char *list)
{
    u8 all[512], one[256];
    writer a = writer_of(all, countof(all));
    char copy_of[256];
    snprintf(copy_of, sizeof copy_of, "%s", list);
    for (char *at = strtok(copy_of, ","); at; at = strtok(0, ",")) {
        writer o = writer_of(one, countof(one));
        put_name(&o, at);
        put_item(&a, DER_SEQUENCE, written(&o));
    }
    put_item(w, tag, written(&a));
}

#define DN_A "300c310a300806035504030c0161"
#define DN_X "300c310a300806035504030c0178"
#define ZEROS "0000000000000000"
#define DN_AB "3018310a300806035504030c0161310a300806035504030c0162"

static void test_x509_constraints(void)
{
    static const struct {
        char permitted[80], excluded[80], name[60];
        err want;
    } rows[] = {
        {"dns example.com", "-", "dns example.com", E_None},
        {"dns example.com", "-", "dns EXAMPLE.COM", E_None},
        {"dns example.com", "-", "dns www.example.com", E_None},
        {"dns example.com", "-", "dns a.b.example.com", E_None},
        {"dns example.com", "-", "dns *.example.com", E_None},
        {"dns example.com", "-", "dns *.com", E_CertNameConstraint},
        {"dns www.example.com", "-", "dns *.example.com", E_CertNameConstraint},
        {"dns example.com", "-", "dns badexample.com", E_CertNameConstraint},
        {"dns example.com", "-", "dns com", E_CertNameConstraint},
        {"dns example.com", "-", "dns example.com.evil", E_CertNameConstraint},
        {"dns a.example,dns b.example", "-", "dns b.example", E_None},
        {"dns ", "-", "dns anything.example", E_None},
        {"-", "dns ", "dns anything.example", E_CertNameConstraint},
        {"-", "dns example.com", "dns example.com", E_CertNameConstraint},
        {"-", "dns example.com", "dns www.Example.com", E_CertNameConstraint},
        {"-", "dns example.com", "dns badexample.com", E_None},
        {"-", "dns www.example.com", "dns *.example.com", E_CertNameConstraint},
        {"-", "dns a.www.example.com", "dns *.example.com", E_None},
        {"-", "dns www.example.com", "dns ftp.example.com", E_None},
        {"dns example.com", "dns www.example.com", "dns www.example.com", E_CertNameConstraint},
        {"dns example.com", "dns www.example.com", "dns ftp.example.com", E_None},
        {"dns .example.com", "-", "dns www.example.com", E_CertMalformed},
        {"dns *.example.com", "-", "dns www.example.com", E_CertMalformed},
        {"dns example.com.", "-", "dns www.example.com", E_CertMalformed},
        {"-", "dns example.com.", "dns www.example.com", E_CertMalformed},
        {"-", "dns \xc3\xa9", "dns www.example.com", E_CertMalformed},
        {"ip 0a000000ff000000", "-", "ip 0a010203", E_None},
        {"ip 0a000000ff000000", "-", "ip 0b010203", E_CertNameConstraint},
        {"ip 0a000000ff000000", "-", "dns example.com", E_None},
        {"dns example.com", "-", "ip 0a010203", E_None},
        {"-", "ip 0a000000ff000000", "ip 0a010203", E_CertNameConstraint},
        {"-", "ip 0a000000ff000000", "ip 0b010203", E_None},
        {"-", "ip 0000000000000000", "ip 0b010203", E_CertNameConstraint},
        {"ip 0a0000fffffffff0", "-", "ip 0a0000ff", E_None},
        {"ip 0a0000fffffffff0", "-", "ip 0a0000ef", E_CertNameConstraint},
        {"ip 0a000000ff000000", "-", "ip 0a010203000000000000000000000000", E_CertNameConstraint},
        {"-", "ip 0a000000ff000000", "ip 0a010203000000000000000000000000", E_None},
        {"ip 0a000000ff00ff00", "-", "ip 0a010203", E_CertMalformed},
        {"ip 0a0000007f000000", "-", "ip 0a010203", E_CertMalformed},
        {"ip 0a000000", "-", "ip 0a010203", E_CertMalformed},
        {"ip 0a000000ff000000ff", "-", "ip 0a010203", E_CertMalformed},
        {"ip ", "-", "ip 0a010203", E_CertMalformed},
        {"ip " ZEROS ZEROS ZEROS ZEROS, "-", "ip 0a010203", E_CertNameConstraint}, /* ::/0 */
        {"-", "ip " ZEROS ZEROS ZEROS ZEROS, "ip 0a010203", E_None},
        {"-", "ip " ZEROS ZEROS ZEROS ZEROS, "ip " ZEROS ZEROS, E_CertNameConstraint},
        {"dn " DN_A, "-", "dn " DN_A, E_None},
        {"dn " DN_X, "-", "dn " DN_A, E_CertNameConstraint},
        {"dn " DN_A, "-", "dn " DN_X, E_CertNameConstraint},
        {"dn " DN_A, "-", "dn " DN_AB, E_None},
        {"dn " DN_AB, "-", "dn " DN_A, E_CertNameConstraint},
        {"dn 3000", "-", "dn " DN_A, E_None},
        {"dn 310100", "-", "dn " DN_A, E_CertNameConstraint},
        {"dn 3002310a", "-", "dn " DN_A, E_CertNameConstraint},
        {"dn 30000500", "-", "dn " DN_A, E_CertNameConstraint},
        {"dn ", "-", "dn " DN_A, E_CertNameConstraint},
        {"-", "dn " DN_AB, "dn " DN_A, E_CertNameConstraint}, /* in doubt */
        {"-", "dn " DN_A, "dns example.com", E_None},
        {"mail example.com", "-", "dns example.com", E_None},
        {"mail example.com", "-", "mail a@example.com", E_CertNameConstraint}, /* in doubt */
        {"-", "mail example.org", "mail a@example.com", E_CertNameConstraint},
        {"-", "uri .example.org", "dns example.com", E_None},
        {"-", "uri .example.org", "uri http://a.example.com", E_CertNameConstraint},
        {"dns example.com", "-", "uri http://a.example.com", E_None},
        {"-", "-", "dns example.com", E_DerMalformed},      /* stands for two empty lists, below */
        {"raw 82016180010", "-", "dns a", E_DerMalformed},  /* a minimum */
        {"raw 820161810101", "-", "dns a", E_DerMalformed}, /* a maximum */
        {"raw 890161", "-", "dns a", E_CertMalformed},      /* no such form */
        {"raw a20161", "-", "dns a", E_CertMalformed},      /* constructed */
        {"raw 840161", "-", "dns a", E_CertMalformed},      /* not constructed */
        {"raw 0c0161", "-", "dns a", E_CertMalformed},      /* another class */
        {"raw ", "-", "dns a", E_Truncated},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 text[600], one[200];
        b32 permits = rows[i].permitted[0] != '-', excludes = rows[i].excluded[0] != '-';
        static path_search s;
        s.name_checks = 0;
        writer w = writer_of(text, countof(text)), n = writer_of(one, countof(one));
        if (permits)
            put_subtrees(&w, 0xa0, rows[i].permitted);
        if (excludes)
            put_subtrees(&w, 0xa1, rows[i].excluded);
        if (!permits && !excludes)
            put_hex(&w, "a000a100");
        put_name(&n, rows[i].name);
        reader r = reader_of(written(&n));
        general_name name;
        name_next(&r, 0, &name);
        CHECK(!r.error);
        err got = constraint_check(&s, written(&w), &name);
        got = !permits && !excludes && got == E_Truncated ? E_DerMalformed : got;
        check_row(__LINE__, rows[i].want, got, rows[i].name);
    }
    static const char bad_names[][40] = {
        "8200",       "820100", "8203610062",     "8202c3a9", "820120",   "82017f",
        "8703010203", "8700",   "87050102030405", "a20161",   "c20161",   "020161",
        "890161",     "9f2201", "800161",         "830161",   "840161",   "850161",
        "a10161",     "a60161", "a70400000000",   "a80161",   "82027f61", "8202617f"};
    static const char good_names[][40] = {"820121", "82017e", "a00161", "810161",       "a30161",
                                          "a40161", "a50161", "860161", "870400000000", "880161"};
    for (iz i = 0; i < countof(good_names); i++) {
        u8 one[40];
        writer n = writer_of(one, countof(one));
        put_hex(&n, good_names[i]);
        reader r = reader_of(written(&n));
        general_name name;
        name_next(&r, 0, &name);
        check_at(__FILE__, __LINE__, (!r.error && !reader_left(&r)), good_names[i]);
    }
    for (iz i = 0; i < countof(bad_names); i++) {
        u8 one[40];
        writer n = writer_of(one, countof(one));
        put_hex(&n, bad_names[i]);
        reader r = reader_of(written(&n));
        general_name name;
        name_next(&r, 0, &name);
        check_at(__FILE__, __LINE__, r.error != E_None, bad_names[i]);
    }
}

/* The parts of a certificate, in hexadecimal; the rows below replace one each. */
enum {
    P_VERSION,
    P_SERIAL,
    P_INNER,
    P_ISSUER,
    P_DATES,
    P_SUBJECT,
    P_KEY,
    P_UNIQUE,
    P_WRAPPED,
    P_EXTENSIONS,
    P_OUTER,
    P_SIGNATURE,
    P_AFTER,
    P_COUNT
};

#define ECDSA_256 "300a06082a8648ce3d040302"
#define P256_KEY                                                         \
    "3059301306072a8648ce3d020106082a8648ce3d030107034200"               \
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296" \
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
#define EXT_CA "300f0603551d130101ff040530030101ff"
#define EXT_SAN "300f0603551d1104083006820461 2e6263"

static const char *const cert_parts[P_COUNT] = {
    "a003020102",
    "020101",
    ECDSA_256,
    DN_A,
    "301e170d3230303130313030303030305a170d3430303130313030303030305a",
    DN_AB,
    P256_KEY,
    "",
    "",
    EXT_CA EXT_SAN,
    ECDSA_256,
    "03020030",
    ""};

static iz cert_build(u8 *out, iz cap, int replaced, const char *hex)
{
    static u8 a[8192], b[8192];
    const char *part[P_COUNT];
    for (int i = 0; i < P_COUNT; i++)
        part[i] = i == replaced ? hex : cert_parts[i];
    writer t = writer_of(a, sizeof a), x = writer_of(b, sizeof b), whole = writer_of(out, cap);
    for (int i = P_VERSION; i <= P_UNIQUE; i++)
        put_hex(&t, part[i]);
    put_hex(&t, part[P_WRAPPED]);
    if (!*part[P_WRAPPED] && *part[P_EXTENSIONS]) {
        static u8 list[8192];
        writer l = writer_of(list, sizeof list);
        put_hex(&x, part[P_EXTENSIONS]);
        put_item(&l, DER_SEQUENCE, written(&x));
        put_item(&t, 0xa3, written(&l));
    }
    x.len = 0;
    put_item(&x, DER_SEQUENCE, written(&t));
    put_hex(&x, part[P_OUTER]);
    put_hex(&x, part[P_SIGNATURE]);
    put_item(&whole, DER_SEQUENCE, written(&x));
    put_hex(&whole, part[P_AFTER]);
    return whole.len;
}

static void test_x509_certificate_forms(void)
{
    static char many[5000], most[5000], rsa_keys[5][1200];
    for (int i = 0; i < 33; i++) {
        sprintf(many + 24 * i, "300a060355%02x%02x0403020100", 0x1e, i);
        if (i < 32)
            strcpy(most, many);
    }
    /* RSA keys: n of 255 bytes; of 257, the first one small; of 256; the same with 80 first; with a
     * third number */
    u8 n[260];
    memset(n, 0xcc, sizeof n);
    for (int k = 0; k < 5; k++) {
        u8 rsa[400], bits[400], info[400];
        writer r = writer_of(rsa, 400), b = writer_of(bits, 400), f = writer_of(info, 400);
        n[0] = 0;
        n[1] = k == 1 ? 0x0f : k == 3 ? 0x80 : 0xcc;
        str number = k == 0 ? (str){n, 256} : k == 1 ? (str){n + 1, 257} : (str){n, 257};
        put_item(&r, DER_INTEGER, number);
        put_hex(&r, k == 4 ? "0203010001020100" : "0203010001");
        put_byte(&b, 0);
        put_item(&b, DER_SEQUENCE, written(&r));
        put_hex(&f, "300d06092a864886f70d0101010500");
        put_item(&f, DER_BIT_STRING, written(&b));
        r = writer_of(rsa, 400);
        put_item(&r, DER_SEQUENCE, written(&f));
        for (iz i = 0; i < r.len; i++)
            sprintf(rsa_keys[k] + 2 * i, "%02x", rsa[i]);
    }
    const struct {
        int part;
        const char *hex;
        err want;
        const char *what;
    } rows[] = {
        {P_AFTER, "", E_None, "the whole as it is"},
        {P_AFTER, "00", E_DerMalformed, "a byte behind it"},
        {P_VERSION, "", E_CertVersion, "version 1"},
        {P_VERSION, "a003020101", E_CertVersion, "version 2"},
        {P_VERSION, "a003020100", E_CertVersion, "version 1, explicit"},
        {P_VERSION, "a003020103", E_CertVersion, "version 4"},
        {P_VERSION, "a00402020002", E_CertVersion, "version with a zero too many"},
        {P_VERSION, "a00302010205 00", E_DerMalformed, "something behind the version"},
        {P_SERIAL, "020100", E_None, "serial number 0"},
        {P_SERIAL, "020180", E_None, "negative serial number"},
        {P_SERIAL, "0200", E_DerMalformed, "empty serial number"},
        {P_SERIAL, "02020001", E_DerMalformed, "serial number with a zero too many"},
        {P_SERIAL, "", E_DerMalformed, "no serial number"},
        {P_INNER, "300a06082a8648ce3d040303", E_CertMalformed, "another algorithm inside"},
        {P_OUTER, "300a06082a8648ce3d040303", E_CertMalformed, "another algorithm outside"},
        {P_ISSUER, "3000", E_CertMalformed, "empty issuer"},
        {P_ISSUER, "3100", E_DerMalformed, "issuer is a set"},
        {P_DATES, "300f170d3230303130313030303030305a", E_Truncated, "one date"},
        {P_DATES, "3020170d3230303130313030303030305a170d3430303130313030303030305a0500",
         E_DerMalformed, "something behind the dates"},
        {P_SUBJECT, "3000", E_CertMalformed, "empty subject, names not critical"},
        {P_UNIQUE, "810100", E_DerMalformed, "issuerUniqueID"},
        {P_UNIQUE, "820100", E_DerMalformed, "subjectUniqueID"},
        {P_EXTENSIONS, "", E_None, "no extensions"},
        {P_WRAPPED, "a3023000", E_Truncated, "extensions empty"},
        {P_WRAPPED, "a300", E_Truncated, "extensions empty, without a sequence"},
        {P_WRAPPED, "a3133011" EXT_CA "0500", E_DerMalformed, "something behind them"},
        {P_WRAPPED, "a4133011" EXT_CA, E_DerMalformed, "another tag"},
        {P_EXTENSIONS, EXT_CA EXT_CA, E_CertMalformed, "an extension twice"},
        {P_EXTENSIONS, "300a06035501010403020100 300a06035501010403020100", E_CertMalformed,
         "an unknown extension twice"},
        {P_EXTENSIONS, "300a06035501010403020100", E_None, "an unknown extension"},
        {P_EXTENSIONS, "300d06035501010101ff0403020100", E_CertExtensionUnknown, "critical"},
        {P_EXTENSIONS, "300d06035501010101000403020100", E_DerMalformed, "explicit default"},
        {P_EXTENSIONS, "300d06035501010101010403020100", E_DerMalformed, "boolean 01"},
        {P_EXTENSIONS, "300c06035501010403020100 0500", E_DerMalformed, "one item too many"},
        {P_EXTENSIONS, "300906035501010402aabb", E_DerMalformed, "value is not DER"},
        {P_EXTENSIONS, "300706035501010400", E_Truncated, "value is empty"},
        {P_EXTENSIONS, "300c06035501010405020100aabb", E_DerMalformed, "value has a tail"},
        {P_EXTENSIONS, "3008 0603550101 020100", E_DerMalformed, "value in no octet string"},
        {P_EXTENSIONS, "30130603551d25040c30080604551d2500 00000000", E_DerMalformed,
         "tail in a value"},
        {P_EXTENSIONS, "300c0603551d2404053003800100", E_CertExtensionUnknown, "policyConstraints"},
        {P_EXTENSIONS, "300f0603551d0e0101ff0405040301 0203", E_CertExtensionUnknown,
         "critical key identifier"},
        {P_EXTENSIONS, many, E_CertMalformed, "33 extensions"},
        {P_EXTENSIONS, most, E_None, "32 extensions"},
        {P_EXTENSIONS, "300b0603551d0f040403020780", E_None, "keyUsage"},
        {P_EXTENSIONS, "300b0603551d0f040403020180", E_None, "keyUsage, seven bits"},
        {P_EXTENSIONS, "300b0603551d0f040403020781", E_DerMalformed, "keyUsage, unused bit set"},
        {P_EXTENSIONS, "300a0603551d0f040304 0180", E_DerMalformed, "keyUsage of another type"},
        {P_EXTENSIONS, "30090603551d1104023000", E_CertMalformed, "no name in subjectAltName"},
        {P_EXTENSIONS, "30090603551d1104023100", E_DerMalformed, "subjectAltName is a set"},
        {P_EXTENSIONS, "30090603551d1304023000", E_None, "basicConstraints, no CA"},
        {P_EXTENSIONS, "300c0603551d130405300301 0100", E_DerMalformed, "explicit default"},
        {P_EXTENSIONS, "300c0603551d1304053003010101", E_DerMalformed, "CA true as 01"},
        {P_EXTENSIONS, "300f0603551d1304083006 0101ff 0201ff", E_DerMalformed, "pathLen -1"},
        {P_EXTENSIONS, "30100603551d1304093007 0101ff 02020001", E_DerMalformed, "pathLen 0001"},
        {P_EXTENSIONS, "30120603551d13040b3009 0101ff 020100 020100", E_DerMalformed, "two"},
        {P_EXTENSIONS, "30090603551d1e04023000", E_CertMalformed, "no name constraint"},
        {P_EXTENSIONS, "30090603551d2504023000", E_Truncated, "no purpose"},
        {P_EXTENSIONS, "300c0603551d2504053003020100", E_DerMalformed, "purpose is a number"},
        {P_SIGNATURE, "03020130", E_DerMalformed, "signature of seven bits"},
        {P_SIGNATURE, "04020030", E_DerMalformed, "signature is no bit string"},
        {P_SIGNATURE, "030200300500", E_DerMalformed, "something behind the signature"},
        {P_KEY, rsa_keys[0], E_CertKeyWeak, "RSA of 2,040 bits"},
        {P_KEY, rsa_keys[1], E_CertKeyWeak, "RSA of 2,052 bits"},
        {P_KEY, rsa_keys[2], E_None, "RSA of 2,048 bits"},
        {P_KEY, rsa_keys[3], E_None, "the same, as small as can be"},
        {P_KEY, rsa_keys[4], E_DerMalformed, "RSA with three numbers"},
        {P_KEY,
         "3059301306072a8648ce3d020106082a8648ce3d03010703420005"
         "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
         "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
         E_CertMalformed, "point of another form"},
        {P_KEY,
         "3056301006072a8648ce3d020106052b8104002203420004"
         "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
         "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
         E_CertMalformed, "P-384 point that is too short"},
        {P_KEY,
         "302a300506032b6570032100ffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
         "ffffffff",
         E_CertKeyUnsupported, "Ed25519"},
        {P_KEY,
         "3049301306072a8648ce3d020106082a8648ce3d0301010332000400000000000000000000000000"
         "0000000000000000000000000000000000000000000000000000000000000000000000",
         E_CertKeyUnsupported, "P-192"},
        {P_KEY,
         "3039301306072a8648ce3d020106082a8648ce3d030107032200 02"
         "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
         E_CertMalformed, "compressed point"},
        {P_KEY, "3018301306072a8648ce3d020106082a8648ce3d0301070301 00", E_CertMalformed,
         "no point"},
        {P_KEY, "300b300906072a8648ce3d0201", E_Truncated, "no curve, no key"},
        {P_KEY, "3012300d06092a864886f70d0101010500030100", E_Truncated, "no RSA key"},
        {P_KEY, "3013300b06092a864886f70d0101010304 00300000", E_CertKeyUnsupported,
         "RSA without its parameters"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        static u8 der[8192];
        certificate c;
        iz len = cert_build(der, sizeof der, rows[i].part, rows[i].hex);
        cert_decode(&c, (str){der, len});
        check_row(__LINE__, rows[i].want, c.error, rows[i].what);
    }
    u8 der[2048];
    certificate c;
    iz len = cert_build(der, sizeof der, P_AFTER, "");
    for (iz cut = 0; cut < len; cut++) {
        u8 *exact = malloc((size_t)cut + 1);
        memcpy(exact, der, (size_t)cut);
        cert_decode(&c, (str){exact, cut});
        CHECK(c.error == E_Truncated || c.error == E_DerMalformed);
        free(exact);
    }
    cert_decode(&c, (str){der, len});
    CHECK(c.ca && c.path_len == -1 && c.usage == USAGE_ABSENT && c.server_auth && c.key.may_sign);
    CHECK(c.not_before == 1577836800 && c.not_after == 2208988800 && c.sig == ECDSA_SHA256);
    CHECK(c.names.len == 6 && !c.constraints.len && c.key.id == KEY_P256 && c.key.point.len == 65);
    len = cert_build(der, sizeof der, P_EXTENSIONS,
                     "30120603551d130101ff0408300601 01ff020105 300b0603551d0f040403020106"
                     "30130603551d25040c300a06082b06010505070302");
    cert_decode(&c, (str){der, len});
    CHECK(c.ca && c.path_len == 5 && c.usage == 6 && !c.server_auth && !c.key.may_sign && !c.error);
    len = cert_build(der, sizeof der, P_EXTENSIONS,
                     "300f0603551d25040830060604551d2500 301506 03551d13040e300c0101ff"
                     "0207010000000000 00");
    cert_decode(&c, (str){der, len});
    CHECK(!c.server_auth && c.path_len == PATH_CERTS && !c.error);
    len = cert_build(der, sizeof der, P_EXTENSIONS,
                     "30190603551d2504123010 0604551d2500 06082b06010505070301");
    cert_decode(&c, (str){der, len});
    CHECK(c.server_auth && !c.error);
}

static void test_x509_algorithms(void)
{
    static const struct {
        char hex[140];
        sig_id want;
    } rows[] = {
        {"300a06082a8648ce3d040302", ECDSA_SHA256},
        {"300a06082a8648ce3d040303", ECDSA_SHA384},
        {"300a06082a8648ce3d040304", ECDSA_SHA512},
        {"300c06082a8648ce3d0403020500", SIG_UNKNOWN}, /* parameters */
        {"300a06082a8648ce3d040301", SIG_UNKNOWN},     /* SHA-224 */
        {"300906072a8648ce3d0401", SIG_WEAK},
        {"300d06092a864886f70d01010b0500", PKCS1_SHA256},
        {"300d06092a864886f70d01010c0500", PKCS1_SHA384},
        {"300d06092a864886f70d01010d0500", PKCS1_SHA512},
        {"300b06092a864886f70d01010b", SIG_UNKNOWN}, /* parameters absent */
        {"300d06092a864886f70d01010b0501", SIG_UNKNOWN},
        {"300d06092a864886f70d0101050500", SIG_WEAK},
        {"300d06092a864886f70d0101040500", SIG_WEAK},
        {"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d"
         "010108300d06096086480165030402010500a203020120",
         PSS_SHA256},
        {"304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d"
         "010108300d06096086480165030402020500a203020130",
         PSS_SHA384},
        {"304106092a864886f70d01010a3034a00f300d06096086480165030402030500a11c301a06092a864886f70d"
         "010108300d06096086480165030402030500a203020140",
         PSS_SHA512},
        {"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d"
         "010108300d06096086480165030402010500a20302011f",
         SIG_UNKNOWN}, /* salt */
        {"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d"
         "010108300d06096086480165030402020500a203020120",
         SIG_UNKNOWN},                                   /* two hashes */
        {"300d06092a864886f70d01010a3000", SIG_UNKNOWN}, /* SHA-1 by default */
        {"300506032b6570", SIG_UNKNOWN},
        {"", SIG_UNKNOWN},
    };
    for (iz i = 0; i < countof(rows); i++) {
        u8 buf[80];
        writer w = writer_of(buf, countof(buf));
        put_hex(&w, rows[i].hex);
        check_at(__FILE__, __LINE__, sig_of_algorithm(written(&w)) == rows[i].want, rows[i].hex);
    }
    static const struct {
        u32 scheme;
        key_id key;
        i32 want; /* -1: refused */
    } schemes[] = {
        {0x0403, KEY_P256, ECDSA_SHA256},
        {0x0503, KEY_P384, ECDSA_SHA384},
        {0x0403, KEY_P384, -1},
        {0x0503, KEY_P256, -1},
        {0x0603, KEY_P384, -1},
        {0x0403, KEY_RSA, -1},
        {0x0804, KEY_RSA, PSS_SHA256},
        {0x0805, KEY_RSA, PSS_SHA384},
        {0x0806, KEY_RSA, PSS_SHA512},
        {0x0804, KEY_P256, -1},
        {0x0401, KEY_RSA, -1},
        {0x0501, KEY_RSA, -1},
        {0x0601, KEY_RSA, -1},
        {0x0201, KEY_RSA, -1},
        {0x0807, KEY_RSA, -1},
        {0x0809, KEY_RSA, -1},
        {0x0203, KEY_P256, -1},
        {0, KEY_RSA, -1},
    };
    for (iz i = 0; i < countof(schemes); i++) {
        public_key k = {.id = schemes[i].key, .may_sign = 1};
        sig_id id = SIG_UNKNOWN;
        err error = sig_of_scheme(schemes[i].scheme, &k, &id);
        CHECK(schemes[i].want < 0 ? error == E_CertSignatureUnsupported
                                  : !error && (i32)id == schemes[i].want);
        k.may_sign = 0;
        CHECK(sig_of_scheme(schemes[i].scheme, &k, &id) == E_CertKeyUsage);
    }
}

static void test_x509_signature_forms(void)
{
    static const char rows[][40] = {
        "",
        "3000",
        "3003020101",
        "30060201010201",
        "300602010102010100",
        "300702010102010100",
        "3009020101020101020101",
        "30060201ff020101",
        "3006020101020180",
        "3007020200010201 01",
        "300702010102020001",
        "3005020002 0101",
        "30800201010201010000",
        "308106020101020101",
        "3106020101020101",
        "3006040101020101",
        "3006020101 040101",
    };
    public_key k = {.id = KEY_P256,
                    .point = S("\4................................"
                               "................................")};
    for (iz i = 0; i < countof(rows); i++) {
        u8 buf[40];
        writer w = writer_of(buf, countof(buf));
        put_hex(&w, rows[i]);
        err got = key_verify(&k, ECDSA_SHA256, S("x"), written(&w));
        check_row(__LINE__, E_DerMalformed, got, rows[i]);
    }
    CHECK(key_verify(&k, PKCS1_SHA256, S("x"), S("")) == E_SignatureBad);
    CHECK(key_verify(&k, PSS_SHA256, S("x"), S("")) == E_SignatureBad);
    CHECK(key_verify(&k, SIG_WEAK, S("x"), S("")) == E_SignatureBad);
    CHECK(key_verify(&k, SIG_UNKNOWN, S("x"), S("")) == E_SignatureBad);
    k.id = KEY_RSA;
    CHECK(key_verify(&k, ECDSA_SHA256, S("x"), S("")) == E_SignatureBad);
}

/* RFC 4648, table 1, read the other way round. */
static void test_x509_base64(void)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int c = 0; c < 256; c++) {
        const char *at = c ? strchr(alphabet, c) : 0;
        u32 value = base64_value((u8)c);
        CHECK(at ? value == (u32)(at - alphabet) : value > 63);
    }
}

static void test_x509_bundle(void)
{
    static u8 text[40000], der[3][900];
    str certs[3];
    static const char subjects[3][60] = {DN_A, DN_AB, DN_X};
    for (int i = 0; i < 3; i++)
        certs[i] = (str){der[i], cert_build(der[i], sizeof der[i], P_SUBJECT, subjects[i])};
    static const struct {
        iz width;
        char end[3], before[80], between[120];
    } rows[] = {
        {64, "\n", "", ""},
        {64, "\n", "# a comment - with dashes -----\n", "\n\n# another\n-----\n"},
        {64, "\r\n", "\r\n", "\r\n"},
        {76, "\n", "\xef\xbb\xbf", "text of openssl x509 -text\n"},
        {8, "\n", "", ""},
        {4000, "\n", "", ""},
        {4000, "\r\n", "", ""},
        {64, "\n", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nMIIB\n"},
        {64, "\n", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
         "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"},
        {64, "\n", "-----BEGIN TRUSTED CERTIFICATE-----\nMAA=\n-----END TRUSTED CERTIFICATE-----\n",
         "-----BEGIN CERTIFICATE-----\n!!!!!!!!\n-----END CERTIFICATE-----\n"},
        {64, "\n", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nMIP/////\n"},
    };
    for (iz k = 0; k < countof(rows); k++) {
        writer w = writer_of(text, sizeof text);
        put(&w, unit_str(rows[k].before));
        for (int i = 0; i < 3; i++) {
            pem_put(&w, certs[i], rows[k].width, rows[k].end);
            put(&w, unit_str(rows[k].between));
        }
        if (k == 7 || k == 10) /* an entry that is cut swallows no other */
            pem_put(&w, certs[0], 64, "\n");
        str bundle = written(&w);
        for (int i = 0; i < 3; i++) {
            certificate want, got;
            cert_decode(&want, certs[i]);
            static path_search s;
            static x509_query query;
            static u8 room[CERT_ROOT_SIZE];
            query.bundle = bundle;
            s.query = &query;
            s.path[0] = (path_node){.next_root = 0};
            s.path[0].cert.issuer = want.subject;
            b32 found = path_next_root(&s, s.path);
            got = s.path[1].cert;
            CHECK(found && !got.error && str_eq(got.signed_part, want.signed_part));
            str tail = str_from(want.subject, 1);
            CHECK(pem_is_for(&query.root, want.subject, room) &&
                  !pem_is_for(&query.root, tail, room));
            cert_decode(&want, certs[(i + 1) % 3]);
            CHECK(!pem_is_for(&query.root, want.subject, room));
        }
        /* every prefix, in a block of its own so that an overrun is seen */
        iz step = k < 3 ? 1 : 37;
        for (iz cut = 0; cut < bundle.len; cut += step) {
            u8 *exact = malloc((size_t)cut + 1);
            memcpy(exact, text, (size_t)cut);
            pem_entry e;
            iz at = 0, count = 0;
            while (pem_next((str){exact, cut}, &at, &e)) {
                static u8 out[4000];
                CHECK(at <= cut && e.size <= (iz)sizeof out && pem_decode(&e, 0, e.size, out));
                count++;
            }
            CHECK(count <= 4);
            free(exact);
        }
    }
    /* a damaged entry is passed over, the others are found */
    writer w = writer_of(text, sizeof text);
    for (int i = 0; i < 3; i++)
        pem_put(&w, certs[i], 64, "\n");
    str bundle = written(&w);
    pem_entry last;
    iz at_end = bundle.len / 3 * 2;
    CHECK(pem_next(str_span(bundle, 0, bundle.len - 1), &at_end, &last)); /* no final newline */
    for (iz i = 0; i < bundle.len; i++) {
        u8 was = text[i];
        text[i] = was == '~' ? '!' : '~';
        pem_entry e;
        iz at = 0, count = 0;
        static u8 out[4000];
        while (pem_next(bundle, &at, &e))
            count += pem_decode(&e, 0, e.size, out);
        CHECK(count == 2 || was == '=' || (count == 3 && was == '\n'));
        text[i] = was;
    }
}

/* ---- chains made by openssl on the fly ---- */

/* mk NAME KEY SUBJECT ISSUER DAYS HASH-OPTIONS < extensions; the key is made if it is not there */
static const char x509_script[] =
    "set -e\n"
    "key() { [ -f $1.key ] && return\n"
    "  case $1 in\n"
    "  rsa4096) openssl genrsa -primes 4 -out $1.key 4096 ;;\n" /* four primes are found faster */
    "  rsa*) openssl genrsa -out $1.key ${1#rsa} ;;\n"
    "  *) openssl ecparam -genkey -noout -name ${1%-*} -out $1.key ;;\n"
    "  esac\n"
    "  openssl pkey -in $1.key -pubout -out $1.pub; }\n"
    "mk() { key $2; cat >ext; o=; [ -s ext ] && o='-extfile ext'\n"
    "  k=\"-CA $4.der -CAkey $4.key -force_pubkey $2.pub\"; [ $4 = self ] && k=\"-key $2.key\"\n"
    "  openssl x509 -new -subj \"$3\" $k -set_serial 77 -days $5 $o $6"
    " -outform der -out $1.der\n"
    "  [ -f $1.key ] || ln $2.key $1.key; }\n"
    "CA='basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign'\n"
    "C0='basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign'\n"
    "L='keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
    "subjectAltName=DNS:api.example.test,IP:127.0.0.1,IP:::1'\n"
    "ca() { echo \"$CA\" | mk \"$@\"; }; c0() { echo \"$C0\" | mk \"$@\"; }\n"
    "leaf() { echo \"$L\" | mk \"$@\"; }; \n"
    "san() { n=$1; shift; { echo \"$CA\"; echo \"$n\"; } | mk \"$@\"; }\n"
    "N=subjectAltName=DNS:api.example.test\n"
    "E=prime256v1; D=secp384r1\n"
    "ca root rsa4096 /CN=root self 900\n"
    "ca stranger $E-c /CN=stranger self 900\n"
    "ca fake $E-f /CN=root self 900\n"
    "c0 ica $D-i /CN=ica root 300\n"
    "leaf leaf $E-l /CN=leaf ica 100\n"
    "c0 ica-short $D-i /CN=ica root 200\n" /* the same CA, for a shorter time */
    "c0 ica-other $E-o /CN=ica root 300\n" /* the same name, another key */
    "c0 ica-stranger $D-i /CN=ica stranger 300\n"
    "leaf direct $E-l /CN=leaf root 100\n"
    "c0 ica-rsa rsa2048 /CN=ica-rsa root 300 -sha512\n"
    "leaf leaf-rsa $E-l /CN=leaf ica-rsa 100 -sha384\n"
    "c0 ica-pss rsa2048 /CN=ica-pss root 300"
    " '-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32'\n"
    "leaf leaf-pss $E-l /CN=leaf ica-pss 100"
    " '-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48'\n"
    "leaf leaf-salt $E-l /CN=leaf ica-pss 100"
    " '-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20'\n"
    "leaf leaf-p384 $D-l /CN=leaf ica 100 -sha384\n"
    "leaf leaf-p384-256 $D-l /CN=leaf ica 100 -sha256\n"
    "leaf leaf-rsa1024 rsa1024 /CN=leaf ica 100\n"
    "leaf leaf-p521 secp521r1-l /CN=leaf ica 100\n"
    "leaf leaf-sha1 $E-l /CN=leaf ica 100 -sha1\n"
    "leaf leaf-md5 $E-l /CN=leaf ica-rsa 100 -md5\n"
    "mk leaf-v1 $E-l /CN=leaf ica 100 </dev/null\n"
    "echo 'subjectAltName=DNS:www.example.test' | mk leaf-other $E-l /CN=api.example.test ica 100\n"
    "echo 'basicConstraints=CA:false' | mk leaf-cn $E-l /CN=api.example.test ica 100\n"
    "echo \"$N\nextendedKeyUsage=clientAuth\" | mk leaf-client $E-l /CN=l ica 100\n"
    "echo \"$N\nextendedKeyUsage=anyExtendedKeyUsage\" | mk leaf-anyeku $E-l /CN=l ica 100\n"
    "echo \"$N\" | mk leaf-plain $E-l /CN=l ica 100\n"
    "echo \"$N\n1.2.3.4=critical,DER:0500\" | mk leaf-unknown $E-l /CN=l ica 100\n"
    "echo \"$N\nkeyUsage=critical,keyEncipherment\" | mk leaf-usage $E-l /CN=l ica 100\n"
    "echo 'subjectAltName=DNS:*.example.test' | mk leaf-wild $E-l /CN=l ica 100\n"
    "leaf under-leaf $E-l /CN=u leaf 100\n"
    "c0 under-0 $E-c /CN=under-0 ica 100\n"
    "leaf under-under $E-l /CN=u under-0 100\n"
    "ca any $E-a /CN=any root 300\n"
    "ca any-self $E-b /CN=any any 300\n" /* self-issued: a new key of the same CA */
    "c0 below-any $E-c /CN=below-any any-self 300\n"
    "leaf leaf-any $E-l /CN=u below-any 100\n"
    "c0 root-0 $E-r /CN=root-0 self 900\n"
    "ca root-0-self $E-t /CN=root-0 root-0 900\n"
    "leaf leaf-0-self $E-l /CN=l root-0-self 100\n"
    "ca root-0-ca $E-c /CN=root-0-ca root-0 900\n"
    "leaf leaf-0-ca $E-l /CN=l root-0-ca 100\n"
    "for n in 'permitted;DNS:example.test' 'permitted;DNS:other.test'"
    " 'excluded;DNS:api.example.test'"
    " 'permitted;IP:10.0.0.0/255.0.0.0' 'permitted;email:example.test'; do i=$((i+1))\n"
    "  san \"nameConstraints=critical,$n\" nc$i $E-c /CN=nc$i root 300\n"
    "  leaf leaf-nc$i $E-l /CN=l nc$i 100\n"
    "  echo \"$N\" | mk dns-nc$i $E-l /CN=l nc$i 100; done\n"
    "echo 'subjectAltName=DNS:api.example.test,email:a@b.test' | mk mail-nc5 $E-l /CN=l nc5 100\n"
    "san 'nameConstraints=critical,permitted;dirName:dn\n[dn]\nCN=somewhere' nc6"
    " $E-c /CN=nc6 root 300\n"
    "leaf leaf-nc6 $E-l /CN=l nc6 100; leaf dn-nc6 $E-l /CN=somewhere/CN=l nc6 100\n"
    "echo 'subjectAltName=critical,DNS:api.example.test' | mk no-name $E-l / nc6 100\n"
    "echo 'basicConstraints=critical,CA:false' | mk not-ca $E-c /CN=not-ca root 300\n"
    "leaf leaf-not-ca $E-l /CN=l not-ca 100\n"
    "echo 'basicConstraints=critical,CA:true\nkeyUsage=digitalSignature' | mk no-sign"
    " $E-c /CN=no-sign root 300\n"
    "leaf leaf-no-sign $E-l /CN=l no-sign 100\n"
    "san extendedKeyUsage=clientAuth client $E-c /CN=client root 300\n"
    "san extendedKeyUsage=anyExtendedKeyUsage anyeku $E-c /CN=anyeku root 300\n"
    "leaf leaf-under-client $E-l /CN=l client 100\n"
    "leaf leaf-under-anyeku $E-l /CN=l anyeku 100\n"
    "ca sha1 $E-c /CN=sha1 root 300 -sha1\n"
    "leaf leaf-under-sha1 $E-l /CN=l sha1 100\n"
    "san 1.2.3.4=critical,DER:0500 unknown $E-c /CN=unknown root 300\n"
    "leaf leaf-under-unknown $E-l /CN=l unknown 100\n"
    "ca rsa1 rsa1024 /CN=rsa1 root 300\n"
    "leaf leaf-under-rsa1 $E-l /CN=l rsa1 100\n"
    "p=root; for i in 1 2 3 4 5 6 7 8 9 10; do ca deep$i $E-c /CN=deep$i $p 300; p=deep$i\n"
    "  done; leaf leaf-deep9 $E-l /CN=l deep9 100; leaf leaf-deep10 $E-l /CN=l deep10 100\n"
    "leaf self $E-l /CN=leaf self 100\n"
    "{ echo \"$CA\"; echo \"$N\"; } | mk self-ca $E-w /CN=self-ca self 100\n"
    "m=; for i in $(seq 500); do m=\"${m}permitted;DNS:a$i.test,\"; done\n"
    "san \"nameConstraints=critical,${m}permitted;DNS:example.test\" many $E-c /CN=many root 300\n"
    "leaf leaf-few $E-l /CN=l many 100\n"
    "m=; for i in $(seq 300); do m=\"${m}DNS:b$i.example.test,\"; done\n"
    "echo \"subjectAltName=${m}DNS:api.example.test\" | mk leaf-many $E-l /CN=l many 100\n";

typedef struct {
    char dir[64];
} x509_pki;

static str x509_file(const x509_pki *p, const char *name)
{
    static u8 pool[1 << 20];
    static iz used;
    char path[128];
    snprintf(path, sizeof path, "%s/%s.der", p->dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        check_at(__FILE__, __LINE__, 0, "a certificate was not made");
        return unit_str("");
    }
    if (used > (iz)sizeof pool - 70000)
        used = 0;
    iz n = (iz)fread(pool + used, 1, 70000, f);
    fclose(f);
    used += n;
    return (str){pool + used - n, n};
}

/* Reads certificates named in a list with blanks between them. */
static iz x509_files(const x509_pki *p, const char *names, str *out, iz cap)
{
    char list[600];
    iz n = 0;
    snprintf(list, sizeof list, "%s", names);
    for (char *at = strtok(list, " "); at && n < cap; at = strtok(0, " "))
        out[n++] = x509_file(p, at);
    return n;
}

static b32 x509_pki_make(x509_pki *p)
{
    char path[128], command[200];
    snprintf(p->dir, sizeof p->dir, "/tmp/x509.XXXXXX");
    if (!mkdtemp(p->dir))
        return 0;
    snprintf(path, sizeof path, "%s/make", p->dir);
    FILE *f = fopen(path, "w");
    fputs(x509_script, f);
    fclose(f);
    snprintf(command, sizeof command, "cd %s && sh make >log 2>&1", p->dir);
    return system(command) == 0;
}

static void x509_pki_remove(const x509_pki *p)
{
    char command[200];
    snprintf(command, sizeof command, "rm -r %s", p->dir);
    CHECK(system(command) == 0);
}

/* The system's roots, then these; the array is the caller's to free. */
static str x509_bundle(const x509_pki *p, const char *roots)
{
    enum { ROOM = 1 << 20 };
    u8 *buf = malloc(ROOM);
    str certs[16];
    iz n = x509_files(p, roots, certs, 16);
    FILE *f = fopen("/etc/ssl/certs/ca-certificates.crt", "rb");
    writer w = writer_of(buf, ROOM);
    if (f) {
        w.len = (iz)fread(buf, 1, ROOM / 2, f);
        fclose(f);
    }
    for (iz i = 0; i < n; i++)
        pem_put(&w, certs[i], 64, "\n");
    return written(&w);
}

static const struct {
    char certs[90], roots[16], host[24];
    i32 days;
    err want;
    iz checks; /* -1: whatever */
    char path[12];
} x509_cases[] = {
    {"leaf ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf ica", "root", "API.example.TEST", 1, E_None, 2, "01"},
    {"leaf ica", "root", "127.0.0.1", 1, E_None, 2, "01"},
    {"leaf ica", "root", "::1", 1, E_None, 2, "01"},
    {"leaf ica", "root", "[::1]", 1, E_None, 2, "01"},
    {"leaf ica", "root", "[0:0::0:1]", 1, E_None, 2, "01"},
    {"leaf ica", "root", "127.0.0.2", 1, E_CertNameMismatch, 0, ""},
    {"leaf ica", "root", "::ffff:127.0.0.1", 1, E_CertNameMismatch, 0, ""},
    {"leaf ica", "root", "127.0.1", 1, E_CertHostName, 0, ""},
    {"leaf ica", "root", "127.0.0.01", 1, E_CertHostName, 0, ""},
    {"leaf ica", "root", "example.test", 1, E_CertNameMismatch, 0, ""},
    {"leaf ica", "root", "", 1, E_CertHostName, 0, ""},
    {"leaf ica", "root fake", "api.example.test", 1, E_None, -1, "01"},
    {"leaf ica", "fake root", "api.example.test", 1, E_None, -1, "01"},
    {"leaf ica root", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf root ica", "root", "api.example.test", 1, E_None, 2, "02"},
    {"leaf leaf ica ica", "root", "api.example.test", 1, E_None, 2, "02"},
    {"leaf stranger leaf-rsa ica-rsa ica", "root", "api.example.test", 1, E_None, 2, "04"},
    {"leaf ica-stranger ica", "root", "api.example.test", 1, E_None, -1, "02"},
    {"leaf ica-stranger stranger ica", "root", "api.example.test", 1, E_None, -1, "03"},
    {"leaf ica-other ica", "root", "api.example.test", 1, E_None, 3, "02"},
    {"leaf ica-other", "root", "api.example.test", 1, E_CertSignatureBad, 1, ""},
    {"leaf ica-short ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf ica", "root", "api.example.test", -1, E_CertNotYetValid, 0, ""},
    {"leaf ica", "root", "api.example.test", 101, E_CertExpired, 0, ""},
    {"leaf ica", "fake", "api.example.test", 1, E_CertSignatureBad, 2, ""},
    {"leaf ica fake", "fake", "api.example.test", 1, E_CertSignatureBad, -1, ""},
    {"leaf ica", "", "api.example.test", 1, E_CertIssuerUnknown, 1, ""},
    {"leaf ica ica-other", "", "api.example.test", 1, E_CertIssuerUnknown, 2, ""},
    {"leaf ica-other ica", "", "api.example.test", 1, E_CertIssuerUnknown, 2, ""},
    {"leaf", "root", "api.example.test", 1, E_CertIssuerUnknown, 0, ""},
    {"leaf ica-stranger stranger", "root", "api.example.test", 1, E_CertIssuerUnknown, -1, ""},
    {"ica root", "root", "api.example.test", 1, E_CertNameMismatch, 0, ""},
    {"direct", "root", "api.example.test", 1, E_None, 1, "0"},
    {"direct root", "root", "api.example.test", 1, E_None, -1, ""},
    {"leaf ica", "ica", "api.example.test", 1, E_None, -1, ""}, /* a trusted CA, not a root */
    {"leaf", "ica", "api.example.test", 1, E_None, 1, "0"},
    {"leaf-rsa ica-rsa", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-pss ica-pss", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-salt ica-pss", "root", "api.example.test", 1, E_CertSignatureUnsupported, 0, ""},
    {"leaf-p384 ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-p384-256 ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-rsa1024 ica", "root", "api.example.test", 1, E_CertKeyWeak, 0, ""},
    {"leaf-p521 ica", "root", "api.example.test", 1, E_CertKeyUnsupported, 0, ""},
    {"leaf-sha1 ica", "root", "api.example.test", 1, E_CertSignatureWeak, 0, ""},
    {"leaf-md5 ica-rsa", "root", "api.example.test", 1, E_CertSignatureWeak, 0, ""},
    {"leaf-v1 ica", "root", "api.example.test", 1, E_CertVersion, 0, ""},
    {"leaf-other ica", "root", "api.example.test", 1, E_CertNameMismatch, 0, ""},
    {"leaf-cn ica", "root", "api.example.test", 1, E_CertNameMismatch, 0, ""},
    {"leaf-client ica", "root", "api.example.test", 1, E_CertPurpose, 0, ""},
    {"leaf-anyeku ica", "root", "api.example.test", 1, E_CertPurpose, 0, ""},
    {"leaf-plain ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-unknown ica", "root", "api.example.test", 1, E_CertExtensionUnknown, 0, ""},
    {"leaf-usage ica", "root", "api.example.test", 1, E_None, 2, "01"}, /* sig_of_scheme refuses */
    {"leaf-wild ica", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-wild ica", "root", "a.api.example.test", 1, E_CertNameMismatch, 0, ""},
    {"under-leaf leaf ica", "root", "api.example.test", 1, E_CertNotCa, 0, ""},
    {"under-under under-0 ica", "root", "api.example.test", 1, E_CertPathLength, 1, ""},
    {"leaf-any below-any any-self any", "root", "api.example.test", 1, E_None, -1, "0123"},
    {"leaf-any any below-any any-self", "root", "api.example.test", 1, E_None, -1, "0231"},
    {"leaf-0-self root-0-self", "root-0", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-0-ca root-0-ca", "root-0", "api.example.test", 1, E_CertPathLength, 1, ""},
    {"leaf-nc1 nc1", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-nc2 nc2", "root", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"leaf-nc3 nc3", "root", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"leaf-nc4 nc4", "root", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"dns-nc4 nc4", "root", "api.example.test", 1, E_None, 2, "01"},
    {"dns-nc5 nc5", "root", "api.example.test", 1, E_None, 2, "01"},
    {"mail-nc5 nc5", "root", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"leaf-nc6 nc6", "root", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"dn-nc6 nc6", "root", "api.example.test", 1, E_None, 2, "01"},
    {"no-name nc6", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-not-ca not-ca", "root", "api.example.test", 1, E_CertNotCa, 0, ""},
    {"leaf-no-sign no-sign", "root", "api.example.test", 1, E_CertKeyUsage, 0, ""},
    {"leaf-under-client client", "root", "api.example.test", 1, E_CertPurpose, 0, ""},
    {"leaf-under-anyeku anyeku", "root", "api.example.test", 1, E_CertPurpose, 0, ""},
    {"leaf-under-sha1 sha1", "root", "api.example.test", 1, E_CertSignatureWeak, 0, ""},
    {"leaf-under-sha1", "sha1", "api.example.test", 1, E_None, 1,
     "0"}, /* its own is not looked at */
    {"leaf-under-unknown unknown", "root", "api.example.test", 1, E_CertExtensionUnknown, 0, ""},
    {"leaf-under-unknown", "unknown", "api.example.test", 1, E_CertExtensionUnknown, 0, ""},
    {"leaf-not-ca", "not-ca", "api.example.test", 1, E_CertNotCa, 0, ""},
    {"leaf-under-rsa1", "rsa1", "api.example.test", 1, E_CertKeyWeak, 0, ""},
    {"leaf-nc2", "nc2", "api.example.test", 1, E_CertNameConstraint, 1, ""},
    {"leaf-under-rsa1 rsa1", "root", "api.example.test", 1, E_CertKeyWeak, 0, ""},
    {"self", "root", "api.example.test", 1, E_CertIssuerUnknown, 0, ""},
    {"self", "self", "api.example.test", 1, E_CertNotCa, 0, ""},
    {"self-ca", "root", "api.example.test", 1, E_CertIssuerUnknown, 0, ""},
    {"self-ca", "self-ca", "api.example.test", 1, E_None, 1, "0"},
    {"leaf-deep9 deep1 deep2 deep3 deep4 deep5 deep6 deep7 deep8 deep9", "root", "api.example.test",
     1, E_None, 10, "0987654321"},
    {"leaf-deep10 deep10 deep9 deep8 deep7 deep6 deep5 deep4 deep3 deep2 deep1", "root",
     "api.example.test", 1, E_CertPathTooLong, 9, ""},
    {"leaf-few many", "root", "api.example.test", 1, E_None, 2, "01"},
    {"leaf-many many", "root", "api.example.test", 1, E_CertSearchBound, 1, ""},
};

static void x509_check_cases(const x509_pki *p)
{
    for (iz i = 0; i < countof(x509_cases); i++) {
        str certs[16];
        i64 now = time(0) + x509_cases[i].days * 86400LL;
        iz count = x509_files(p, x509_cases[i].certs, certs, 16);
        str bundle = x509_bundle(p, x509_cases[i].roots);
        x509_query q = {.host = unit_str(x509_cases[i].host), .bundle = bundle, .now = now};
        err got = x509_verify(&q, certs, count);
        char what[160];
        snprintf(what, sizeof what, "%.89s under %.15s for %.23s", x509_cases[i].certs,
                 x509_cases[i].roots, x509_cases[i].host);
        check_row(__LINE__, x509_cases[i].want, got, what);
        CHECK(q.checks <= PATH_CHECKS && (got == E_None) == (q.path_len > 0));
        check_at(__FILE__, __LINE__, x509_cases[i].checks < 0 || q.checks == x509_cases[i].checks,
                 what);
        b32 same = !*x509_cases[i].path || (iz)strlen(x509_cases[i].path) == q.path_len;
        for (iz k = 0; *x509_cases[i].path && same && k < q.path_len; k++)
            same = q.path[k] == x509_cases[i].path[k] - '0';
        check_at(__FILE__, __LINE__, same, what);
        if (!got) {
            u8 der[CERT_ROOT_SIZE];
            certificate root, last;
            CHECK(pem_decode(&q.root, 0, q.root.size, der));
            cert_decode(&root, (str){der, q.root.size});
            cert_decode(&last, certs[q.path[q.path_len - 1]]);
            CHECK(!root.error && str_eq(root.subject, last.issuer));
            i64 until = root.not_after;
            for (iz k = 0; k < q.path_len; k++) {
                cert_decode(&last, certs[q.path[k]]);
                until = earlier(until, last.not_after);
            }
            CHECK(q.until == until);
        }
        sig_id id;
        if (!got && !strncmp(what, "leaf-usage", 10))
            CHECK(sig_of_scheme(0x0403, &q.leaf, &id) == E_CertKeyUsage);
        free((void *)bundle.ptr);
    }
}

/* Each byte of a certificate changed in turn, in the leaf and in the CA: always refused. */
static void x509_check_mutations(const x509_pki *p)
{
    str certs[2], bundle = x509_bundle(p, "root");
    x509_query q = {.host = S("api.example.test"), .bundle = bundle, .now = time(0) + 86400};
    for (int which = 0; which < 2; which++) {
        x509_files(p, "leaf ica", certs, 2);
        str good = certs[which];
        for (iz i = 0; i < good.len; i++) {
            u8 *bad = malloc((size_t)good.len);
            memcpy(bad, good.ptr, (size_t)good.len);
            bad[i] ^= (u8)(1 << i % 8);
            certs[which].ptr = bad;
            CHECK(x509_verify(&q, certs, 2));
            free(bad);
        }
        certs[which] = good;
        for (iz i = 0; i < good.len; i++) {
            u8 *cut = malloc((size_t)i + 1);
            memcpy(cut, good.ptr, (size_t)i);
            certs[which] = (str){cut, i};
            err got = x509_verify(&q, certs, 2);
            CHECK(which ? got == E_CertIssuerUnknown : got == E_Truncated || got == E_DerMalformed);
            free(cut);
        }
    }
    free((void *)bundle.ptr);
}

/* A hostile server: many CAs of the wanted name that all fail. */
static void x509_check_bound(const x509_pki *p)
{
    enum { COUNT = 100 };
    static u8 copies[COUNT][1024];
    str certs[COUNT + 2], bundle = x509_bundle(p, "root");
    certs[0] = x509_file(p, "leaf");
    str ica = x509_file(p, "ica-other");
    certificate c;
    cert_decode(&c, ica);
    iz key_at = c.key.point.ptr - ica.ptr;
    for (int i = 0; i < COUNT; i++) {
        memcpy(copies[i], ica.ptr, (size_t)ica.len);
        copies[i][key_at + 10] ^= (u8)(i + 1);
        certs[i + 1] = (str){copies[i], ica.len};
    }
    certs[COUNT + 1] = x509_file(p, "ica");
    x509_query q = {.host = S("api.example.test"), .bundle = bundle, .now = time(0) + 86400};
    err got = x509_verify(&q, certs, COUNT + 2);
    check_row(__LINE__, E_CertSearchBound, got, "100 false CAs");
    CHECK(q.checks == PATH_CHECKS);
    certs[1] = certs[COUNT + 1]; /* the good one early: found before the bound */
    got = x509_verify(&q, certs, COUNT + 2);
    CHECK(!got && q.checks == 2);
    CHECK(x509_verify(&q, certs, 0) == E_CertMalformed);
    free((void *)bundle.ptr);
}

static void test_x509_openssl_chains(void)
{
    x509_pki p;
    if (system("openssl version >/dev/null 2>&1")) {
        skipped++;
        return;
    }
    if (!x509_pki_make(&p)) {
        fprintf(stderr, "see %s/log\n", p.dir);
        check_at(__FILE__, __LINE__, 0, "openssl makes the certificates");
        return;
    }
    x509_check_cases(&p);
    x509_check_mutations(&p);
    x509_check_bound(&p);
    x509_pki_remove(&p);
}

/* ---- random chains, judged by openssl verify ---- */

/* $1 is a list of chains, a line each: number, then what the intermediate says of itself, what the
 * second one does (- for none), what the leaf does, and the host. Prints number and verdict. */
static const char x509_random_script[] =
    "mk() { echo \"$4\" | tr '~' '\\n' >ext; ln -f $2.key $1.key\n"
    "  openssl x509 -new -subj /O=skill/CN=${1%%[0-9]*} -force_pubkey $2.pub -CA $3.der \\\n"
    "    -CAkey $3.key -set_serial $((1000 * $n + $6)) -days $5 -extfile ext \\\n"
    "    -outform der -out $1.der; }\n"
    "for k in a b c; do openssl ecparam -genkey -noout -name prime256v1 -out $k.key\n"
    "  openssl pkey -in $k.key -pubout -out $k.pub; done\n"
    "openssl req -x509 -key a.key -days 900 -subj /CN=oracle-root -outform der -out oracle.der \\\n"
    "  -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign\n"
    "openssl x509 -inform der -in oracle.der -out oracle.pem; ln -f a.key oracle.key\n"
    "while read -r n days ica second leaf host; do by=ica$n more=\n"
    "  mk ica$n b oracle \"$ica\" ${days%,*} 1\n"
    "  [ $second = - ] || { mk second$n c ica$n \"$second\" 30 2\n"
    "    by=second$n more=\"-untrusted second$n.der\"; }\n"
    "  mk leaf$n b $by \"$leaf\" ${days#*,} 3\n"
    "  openssl verify -CAfile oracle.pem -untrusted ica$n.der $more -purpose sslserver \\\n"
    "    -verify_hostname $host leaf$n.der >>log 2>&1 && echo $n 1 || echo $n 0; done <chains\n";

/* One of a list of choices that are separated by blanks. */
static const char *x509_choice(u64 *seed, const char *choices)
{
    static char text[8][200];
    static int turn;
    char list[600], *pick[16];
    u32 n = 0, r;
    snprintf(list, sizeof list, "%s", choices);
    for (char *at = strtok(list, " "); at && n < 16; at = strtok(0, " "))
        pick[n++] = at;
    test_fill(seed, (u8 *)&r, sizeof r);
    turn = (turn + 1) % 8;
    snprintf(text[turn], sizeof text[turn], "%s", pick[r % n]);
    return text[turn];
}

static void x509_random_chain(FILE *f, int n, u64 *seed, const char *host, b32 second)
{
    static const char ca[] = "CA:true CA:true CA:true CA:true CA:true CA:true,pathlen:0 "
                             "CA:true,pathlen:1 CA:true,pathlen:2 CA:false";
    static const char usage[] = "keyCertSign keyCertSign,cRLSign keyCertSign keyCertSign "
                                "keyCertSign digitalSignature";
    static const char names[] = "~ ~ ~ ~ ~ ~ ~ ~nameConstraints=critical,permitted;DNS:good.test "
                                "~nameConstraints=critical,permitted;DNS:test "
                                "~nameConstraints=critical,excluded;DNS:b.test "
                                "~nameConstraints=critical,permitted;DNS:other.test "
                                "~nameConstraints=critical,excluded;DNS:good.test "
                                "~nameConstraints=critical,excluded;DNS:a.good.test "
                                "~nameConstraints=critical,permitted;IP:10.0.0.0/255.0.0.0";
    static const char purposes[] = "~ ~ ~ ~ ~extendedKeyUsage=serverAuth,clientAuth "
                                   "~extendedKeyUsage=clientAuth "
                                   "~extendedKeyUsage=serverAuth";
    static const char sans[] = "DNS:a.good.test DNS:*.good.test DNS:good.test,DNS:a.good.test "
                               "DNS:a.good.test,DNS:b.test DNS:*.good.test,DNS:good.test "
                               "DNS:*.a.good.test DNS:A.GOOD.test DNS:*.test "
                               "DNS:x.test,DNS:a.good.test "
                               "DNS:a.good.test,IP:10.1.2.3 DNS:w*.good.test";
    b32 plain = n % 4 == 1; /* one in four is good */
    const char *days = plain ? "30" : "30 30 30 30 30 30 30 30 30 -1";
    const char *ica_days = x509_choice(seed, days), *leaf_days = x509_choice(seed, days);
    fprintf(f, "%d %s,%s ", n, ica_days, leaf_days);
    for (int i = 0; i < 1 + second;
         i++) { /* one choice a statement: their order is the same then */
        const char *is_ca = x509_choice(seed, plain ? "CA:true" : ca);
        const char *may = x509_choice(seed, plain ? "keyCertSign" : usage);
        const char *limits = x509_choice(seed, plain ? "~" : names);
        const char *serves = x509_choice(seed, plain ? "~" : purposes);
        fprintf(f, "basicConstraints=critical,%s~keyUsage=critical,%s%s%s ", is_ca, may, limits,
                serves);
    }
    const char *san = x509_choice(seed, plain ? "DNS:*.good.test" : sans);
    const char *serves = x509_choice(seed, plain ? "~" : purposes);
    fprintf(f, "%ssubjectAltName=%s~keyUsage=critical,digitalSignature%s %s\n", second ? "" : "- ",
            san, serves, host);
}

static void test_x509_openssl_random(void)
{
    enum { CHAINS = 100 };
    x509_pki p;
    char text[300], hosts[CHAINS][20];
    u64 seed = 20261127;
    int n, valid, accepted = 0, judged = 0;
    if (!test_openssl())
        return;
    snprintf(p.dir, sizeof p.dir, "/tmp/x509.XXXXXX");
    CHECK(mkdtemp(p.dir));
    snprintf(text, sizeof text, "%s/chains", p.dir);
    FILE *f = fopen(text, "w");
    for (int i = 0; i < CHAINS; i++) {
        snprintf(hosts[i], sizeof hosts[i], "%s",
                 x509_choice(&seed,
                             "a.good.test a.good.test a.good.test good.test b.a.good.test x.test"));
        x509_random_chain(f, i, &seed, hosts[i], i % 3 == 0);
    }
    fclose(f);
    snprintf(text, sizeof text, "%s/judge", p.dir);
    f = fopen(text, "w");
    fputs(x509_random_script, f);
    fclose(f);
    snprintf(text, sizeof text, "cd %s && sh judge 2>log2", p.dir);
    f = popen(text, "r");
    str bundle = {0, 0};
    while (f && fscanf(f, "%d %d", &n, &valid) == 2) {
        char names[60], what[100];
        str certs[3];
        if (!judged++)
            bundle = x509_bundle(&p, "oracle");
        snprintf(names, sizeof names, n % 3 ? "leaf%d ica%d" : "leaf%d ica%d second%d", n, n, n);
        iz count = x509_files(&p, names, certs, 3);
        x509_query q = {.host = unit_str(hosts[n]), .bundle = bundle, .now = time(0)};
        err got = x509_verify(&q, certs, count);
        snprintf(what, sizeof what, "chain %d for %s: openssl %d, here %s", n, hosts[n], valid,
                 unit_error(got));
        check_at(__FILE__, __LINE__, (got == E_None) == valid, what);
        accepted += valid;
    }
    CHECK(f && !pclose(f) && judged == CHAINS);
    free((void *)(uz)bundle.ptr);
    snprintf(text, sizeof text, "%d of %d chains accepted", accepted, CHAINS);
    check_at(__FILE__, __LINE__, accepted > 10 && accepted < CHAINS - 10, text);
    x509_pki_remove(&p);
}

/* ---- entries for libFuzzer ---- */

static void fuzz_inside(str part, str whole)
{
    invariant(part.len >= 0);
    invariant(!part.len || (whole.ptr <= part.ptr && part.ptr + part.len <= whole.ptr + whole.len));
}

/* One item by every reader, and as a certificate. */
static void fuzz_der(const u8 *data, iz n)
{
    str all = {data, n};
    for (int kind = 0; kind < 8; kind++) {
        reader r = reader_of(all);
        str got = {data, 0};
        if (kind == 0)
            got = der_item(&r, DER_ANY);
        if (kind == 1)
            got = der_whole(&r, DER_SEQUENCE);
        if (kind == 2)
            got = der_integer(&r);
        if (kind == 3)
            got = der_unsigned(&r);
        if (kind == 4)
            got = der_bits(&r, 7);
        if (kind == 5)
            der_flag(&r), der_time(&r);
        general_name one = {0, got};
        if (kind >= 6)
            name_next(&r, kind == 7, &one);
        if (kind >= 6)
            got = one.value;
        fuzz_inside(got, all);
        fuzz_inside((str){r.at, r.end - r.at}, all);
    }
    certificate c;
    cert_decode(&c, all);
    fuzz_inside(c.names, all);
    fuzz_inside(c.subject, all);
    fuzz_inside(c.constraints, all);
    public_key k = {.id = KEY_P256,
                    .point = S("\4................................"
                               "................................")};
    key_verify(&k, ECDSA_SHA256, S("x"), all);
    static path_search s;
    s.name_checks = 0;
    general_name name = {NAME_DNS, S("www.example.com")};
    constraint_check(&s, all, &name);
    name = (general_name){NAME_DIRECTORY, S("\x30\0")};
    constraint_check(&s, all, &name);
    name = (general_name){NAME_DNS, S("www.example.com")};
    cert_check_host(&c, &name);
}

/* Certificates, each after its length in two bytes; the last is the root. */
static void fuzz_chain(const u8 *data, iz n)
{
    enum { CERTS = 40, ROOM = 1 << 18 };
    static u8 pem[ROOM];
    str certs[CERTS];
    iz count = 0;
    reader r = reader_of((str){data, n});
    while (count < CERTS && reader_left(&r) > 2) {
        iz len = (iz)read_be(&r, 2);
        certs[count++] = read_bytes(&r, len < reader_left(&r) ? len : reader_left(&r));
    }
    if (count < 2)
        return;
    writer w = writer_of(pem, ROOM);
    pem_put(&w, certs[count - 1], 64, "\n");
    str host = n & 1 ? S("example.com") : S("test.localhost");
    x509_query q = {.host = host, .bundle = written(&w), .now = 1795410007};
    err error = x509_verify(&q, certs, count - 1);
    invariant(q.checks <= PATH_CHECKS);
    invariant((error == E_None) == (q.path_len > 0));
    for (iz i = 0; i < q.path_len; i++)
        invariant(0 <= q.path[i] && q.path[i] < count - 1);
}

static void fuzz_bundle(const u8 *data, iz n)
{
    str bundle = {data, n};
    iz at = 0;
    pem_entry e;
    static u8 out[1 << 16], room[CERT_ROOT_SIZE];
    for (iz before = 0; pem_next(bundle, &at, &e); before = at) {
        invariant(before < at && at <= n && 0 < e.size && e.size < n);
        pem_is_for(&e, S("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\1a"), room);
        if (e.size < (iz)sizeof out)
            pem_decode(&e, 0, e.size, out);
    }
    static path_search s;
    static x509_query query;
    query.bundle = bundle;
    s.query = &query;
    s.path[0] = (path_node){.next_root = 0};
    s.path[0].cert.issuer = S("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\1a");
    while (path_next_root(&s, s.path))
        invariant(str_eq(s.path[1].cert.subject, s.path[0].cert.issuer));
}

/* ---- section 8: TLS ---- */

/* ---- a server of the tests' own ----
 * It speaks TLS 1.3 well or ill, as its plan says. Its leaf's private key is 3 and each ECDSA
 * nonce is 1, so that r is always the x coordinate of P-256's base point and
 * s = hash + 3 r mod n. */

static const char peer_root[] = "-----BEGIN CERTIFICATE-----\n"
                                "MIIBUDCB+KADAgECAgIQATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARyb290MCAX\n"
                                "DTIwMDEwMTAwMDAwMFoYDzIwOTkxMjMxMjM1OTU5WjAPMQ0wCwYDVQQDDARyb290\n"
                                "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiuCxuTIDd0u+Gn7/716JMOQ4jJTs\n"
                                "gdsSB+zxbX/E/oKTykhvdbK9mCGeaFIm5dZLhGc6gPLY1Crp4kImOVJxS6NCMEAw\n"
                                "DwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAgQwHQYDVR0OBBYEFNdatage\n"
                                "0BBBUw8pa0WWoKnDASiDMAoGCCqGSM49BAMCA0cAMEQCIA05QLsYHv9yGLEZkyLk\n"
                                "oi789bx/vZNWaYz8gVskJcDiAiAM0tLqcXYJkbFjZ3ZflQua7QD0lzGtmeVSUSP3\n"
                                "4VH6zw==\n"
                                "-----END CERTIFICATE-----\n";

static const char peer_leaf[] = "3082018e30820135a00302010202021002300a06082a8648ce3d040302300f310d"
                                "300b06035504030c04726f6f743020"
                                "170d3230303130313030303030305a180f32303939313233313233353935395a30"
                                "0f310d300b06035504030c046c6561"
                                "663059301306072a8648ce3d020106082a8648ce3d030107034200045ecbe4d1a6"
                                "330a44c8f7ef951d4bf165e6c6b721"
                                "efada985fb41661bc6e7fd6c8734640c4998ff7e374b06ce1a64a2ecd82ab03638"
                                "4fb83d9a79b127a27d5032a37f307d"
                                "300c0603551d130101ff04023000300e0603551d0f0101ff040403020780301d06"
                                "03551d1104163014820c746573742e"
                                "6578616d706c6587047f000001301d0603551d0e04160414fc2cb70129452f9364"
                                "02b99c9cdea267412b1280301f0603"
                                "551d23041830168014d75ab5a81ed01041530f296b4596a0a9c3012883300a0608"
                                "2a8648ce3d04030203470030440220"
                                "48a033959effb4cc7c588d872cc7aeaca43ae646ce76ea83d9bac2d77ee1cbb402"
                                "20441b7baa0498ca26b52146c186dc"
                                "776f6d27a5aa3da25a36b35e2c711fcdb117";

enum { PEER_NOW = 1700000000 };

static iz tls_unhex(const char *hex, u8 *out)
{
    iz n = 0;
    for (; hex[0] && hex[1]; hex += 2) {
        unsigned byte;
        sscanf(hex, "%2x", &byte);
        out[n++] = (u8)byte;
    }
    return n;
}

/* A hexadecimal literal as bytes, in one of a few rotating buffers. */
static str hex_bytes(const char *hex)
{
    static u8 buf[8][4096];
    static int turn;
    u8 *p = buf[turn = (turn + 1) % 8];
    return (str){p, tls_unhex(hex, p)};
}

/* ECDSA with the private key 3: DER of (r, s). */
static iz peer_sign(const u8 id[32], u8 der[80])
{
    static const char gx[] = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    static const char n[] = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    u8 r[32], order[32], s[33] = {0};
    tls_unhex(gx, r);
    tls_unhex(n, order);
    copy(s + 1, id, 32);
    for (int k = 0; k < 4; k++) { /* three times + r, then once more to reduce */
        u32 carry = 0;
        for (int i = 31; i >= 0 && k < 3; i--, carry >>= 8) {
            carry += (u32)s[i + 1] + r[i];
            s[i + 1] = (u8)carry;
        }
        s[0] = (u8)(s[0] + carry);
        while (s[0] || memcmp(s + 1, order, 32) >= 0) {
            i32 borrow = 0;
            for (int i = 31; i >= 0; i--) {
                i32 d = s[i + 1] - order[i] + borrow;
                s[i + 1] = (u8)d;
                borrow = d < 0 ? -1 : 0;
            }
            s[0] = (u8)(s[0] + borrow);
        }
    }
    iz len = 2;
    const u8 *number[2] = {r, s + 1};
    for (int k = 0; k < 2; k++) {
        iz from = 0;
        while (from < 31 && !number[k][from])
            from++;
        b32 sign = number[k][from] >= 0x80;
        der[len++] = 2;
        der[len++] = (u8)(32 - from + sign);
        if (sign)
            der[len++] = 0;
        copy(der + len, number[k] + from, 32 - from);
        len += 32 - from;
    }
    der[0] = 0x30;
    der[1] = (u8)(len - 2);
    return len;
}

/* What the server does. `order` is a program, a letter a step:
 *   H ServerHello  R HelloRetryRequest  E EncryptedExtensions  Q CertificateRequest  C Certificate
 *   V CertificateVerify  F Finished  T NewSessionTicket  K KeyUpdate  k the same, asking for one
 *   M a message given as `message`
 *   | what is queued of these goes out in records   / all of it but the last 3 bytes
 *   1 handshake keys   2 application keys   3 next application keys   4 handshake keys again
 *   0 none
 *   D application data  d without content  A close_notify  W user_canceled  S change_cipher_spec
 *   X a record in the clear, Y a sealed one: `raw`, of `raw_type`; Z: the same Y 33 times
 * Only the message `letter` is changed: bytes of its body are xored, its last byte dropped (trim),
 * a zero byte added (extra), extension bytes added at its end (more, inside the block, which is the
 * last field of H, R, E, Q, T), or its whole body replaced. */
typedef struct {
    const char *retry, *order;
    u16 suite, group;
    char letter;
    struct {
        iz at;
        u8 with;
    } flip[10];
    b32 trim, extra;
    iz cut; /* so many bytes off the end, and off the extension block */
    const char *more, *body;
    b32 no_aes, by_address, repeat;
    iz fragment, padding;
    const char *message;
    u8 raw_type;
    const char *raw;
    iz raw_len; /* instead of raw: so many bytes `raw_fill` */
    u8 raw_fill;
    iz raw_zeros; /* behind raw */
    b32 raw_bare; /* Y: raw is the whole inner plaintext */
    b32 tickets;  /* the client takes and offers them */
    b32 resume;   /* take what it offers; offer_of checks it */
    i64 later;    /* ms behind PEER_NOW */
    const char *host, *bundle_more, *roots;
} tls_plot;

typedef struct {
    u8 secret[HASH_MAX], iv[12];
    aead key;
    u64 sequence;
    b32 on;
} peer_keys;

typedef struct {
    tls_plot p;
    u16 suite, group;
    hash_id hash;
    aead_id cipher;
    hash both[2], behind; /* transcripts; behind: with the client's messages after Finished */
    u8 session[32], peer_point[65];
    u8 secret[HASH_MAX], c_hs[HASH_MAX], s_hs[HASH_MAX], c_ap[HASH_MAX], s_ap[HASH_MAX];
    peer_keys out, in;
    u8 flight[200000], wire[2000000];
    iz flight_len, wire_len;
    /* what came from the client */
    iz hellos, read, ccs_count, offers;
    b32 finished, shown_one;
    int alert, updates;
    u8 data[70000];
    iz data_len;
} peer;

static void peer_digest(peer *s, u8 out[HASH_MAX])
{
    hash fork = s->both[s->hash];
    hash_end(&fork, out);
}

static void peer_derive(peer *s, const char *label, const u8 *digest, u8 out[HASH_MAX])
{
    iz n = hash_size(s->hash);
    str name = {(const u8 *)label, (iz)strlen(label)};
    hkdf_expand_label(s->hash, (str){s->secret, n}, name, (str){digest, n}, out, n);
}

static void peer_extract(peer *s, str input)
{
    u8 empty[HASH_MAX], salt[HASH_MAX];
    hash_of(s->hash, S(""), empty);
    peer_derive(s, "derived", empty, salt);
    hkdf_extract(s->hash, (str){salt, hash_size(s->hash)}, input, s->secret);
}

static void peer_use(peer *s, peer_keys *k, const u8 *secret)
{
    iz n = hash_size(s->hash);
    u8 key[32], old[HASH_MAX];
    copy(old, secret, n);
    copy(k->secret, old, n);
    hkdf_expand_label(s->hash, (str){old, n}, S("key"), S(""), key, aead_key_size(s->cipher));
    hkdf_expand_label(s->hash, (str){old, n}, S("iv"), S(""), k->iv, 12);
    aead_init(&k->key, s->cipher, key);
    k->sequence = 0;
    k->on = 1;
}

static void peer_update(peer *s, peer_keys *k)
{
    iz n = hash_size(s->hash);
    u8 next[HASH_MAX];
    hkdf_expand_label(s->hash, (str){k->secret, n}, S("traffic upd"), S(""), next, n);
    peer_use(s, k, next);
}

static void peer_nonce(const peer_keys *k, u8 nonce[12])
{
    copy(nonce, k->iv, 12);
    for (int i = 0; i < 8; i++)
        nonce[11 - i] ^= (u8)(k->sequence >> (8 * i));
}

static void peer_wire(peer *s, u8 type, str content)
{
    u8 *at = s->wire + s->wire_len;
    u8 header[5] = {type, 3, 3, (u8)(content.len >> 8), (u8)content.len};
    copy(at, header, 5);
    memmove(at + 5, content.ptr, (size_t)content.len);
    s->wire_len += 5 + content.len;
}

/* Seals an inner plaintext as it stands. */
static void peer_seal(peer *s, str inner)
{
    static u8 buf[70000];
    u8 nonce[12];
    copy(buf, inner.ptr, inner.len);
    iz n = inner.len + 16;
    u8 header[5] = {23, 3, 3, (u8)(n >> 8), (u8)n};
    peer_nonce(&s->out, nonce);
    aead_seal(&s->out.key, nonce, (str){header, 5}, buf, inner.len, buf + inner.len);
    s->out.sequence++;
    peer_wire(s, 23, (str){buf, n});
}

static void peer_record(peer *s, u8 type, str content)
{
    static u8 inner[70000];
    if (!s->out.on) {
        peer_wire(s, type, content);
        return;
    }
    copy(inner, content.ptr, content.len);
    inner[content.len] = type;
    memset(inner + content.len + 1, 0, (size_t)s->p.padding);
    peer_seal(s, (str){inner, content.len + 1 + s->p.padding});
}

static void peer_flush(peer *s, iz keep)
{
    iz at = 0, most = s->p.fragment ? s->p.fragment : 16384;
    for (iz n; at < s->flight_len - keep; at += n) {
        n = s->flight_len - keep - at < most ? s->flight_len - keep - at : most;
        peer_record(s, 22, (str){s->flight + at, n});
    }
    memmove(s->flight, s->flight + at, (size_t)keep);
    s->flight_len = keep;
}

/* Queues a message, changed if the plan says so. `block`: where its last extension block's length
 * stands, or -1. */
static void peer_message(peer *s, char letter, u8 type, writer *w, iz block)
{
    u8 *body = w->buf + 4;
    iz n = w->len - 4;
    if (s->p.letter == letter) {
        if (s->p.body)
            n = tls_unhex(s->p.body, body);
        if (s->p.cut || s->p.more) {
            iz have = ((iz)body[block] << 8 | body[block + 1]) - s->p.cut;
            n -= s->p.cut;
            iz more = s->p.more ? tls_unhex(s->p.more, body + n) : 0;
            n += more;
            body[block] = (u8)((have + more) >> 8);
            body[block + 1] = (u8)(have + more);
        }
        for (int i = 0; i < 10; i++)
            body[s->p.flip[i].at] ^= s->p.flip[i].with;
        if (s->p.extra)
            body[n++] = 0;
        n -= s->p.trim;
    }
    u8 header[4] = {type, (u8)(n >> 16), (u8)(n >> 8), (u8)n};
    copy(w->buf, header, 4);
    str whole = {w->buf, n + 4};
    hash_add(&s->both[0], whole);
    hash_add(&s->both[1], whole);
    copy(s->flight + s->flight_len, whole.ptr, whole.len);
    s->flight_len += whole.len;
}

static u8 peer_buffer[150000];

static void peer_hello(peer *s, b32 retry)
{
    writer w = writer_of(peer_buffer + 4, (iz)sizeof peer_buffer - 4);
    u8 peer_point[65], secret[32] = {7, 7, 7};
    put_be(&w, 0x0303, 2);
    for (int i = 0; i < 32; i++)
        put_byte(&w, retry ? (u8)tls_retry_random[i] : (u8)(0xa0 + i));
    put_byte(&w, 32);
    put(&w, (str){s->session, 32});
    put_be(&w, s->suite, 2);
    put_byte(&w, 0);
    iz block = w.len;
    put_be(&w, 0, 2);
    put(&w, S("\0\x2b\0\2\3\4"));
    if (retry && s->p.group) {
        put(&w, S("\0\x33\0\2"));
        put_be(&w, s->p.group, 2);
        s->group = s->p.group;
    } else if (!retry) {
        iz n = s->group == 0x1d ? 32 : 65;
        if (s->group == 0x1d)
            x25519_public(peer_point, secret);
        else
            p256_public(peer_point, secret);
        put(&w, S("\0\x33"));
        put_be(&w, (u64)n + 4, 2);
        put_be(&w, s->group, 2);
        put_be(&w, (u64)n, 2);
        put(&w, (str){peer_point, n});
    }
    if (!retry && s->p.resume)
        put(&w, S("\0\x29\0\2\0\0"));
    w.buf[block] = (u8)((w.len - block - 2) >> 8);
    w.buf[block + 1] = (u8)(w.len - block - 2);
    writer all = {peer_buffer, w.len + 4, w.cap, 0};
    if (retry) { /* message_hash */
        for (int h = 0; h < 2; h++) {
            u8 digest[HASH_MAX], header[4] = {254, 0, 0, (u8)hash_size((hash_id)h)};
            hash_end(&s->both[h], digest);
            hash_init(&s->both[h], (hash_id)h);
            hash_add(&s->both[h], (str){header, 4});
            hash_add(&s->both[h], (str){digest, header[3]});
        }
    }
    peer_message(s, retry ? 'R' : 'H', 2, &all, block);
}

/* What outlives a connection at the server: the PSK of the ticket "token", and its hash. */
static u8 peer_psk[HASH_MAX];
static hash_id peer_psk_hash;

static void peer_handshake_keys(peer *s)
{
    u8 shared[32], secret[32] = {7, 7, 7}, digest[HASH_MAX], none[HASH_MAX] = {0};
    u8 *psk = s->p.resume ? peer_psk : none;
    if (s->group == 0x1d)
        x25519(shared, secret, s->peer_point);
    else
        p256_ecdh(shared, secret, (str){s->peer_point, 65});
    hkdf_extract(s->hash, S(""), (str){psk, hash_size(s->hash)}, s->secret);
    peer_extract(s, (str){shared, 32});
    peer_digest(s, digest);
    peer_derive(s, "c hs traffic", digest, s->c_hs);
    peer_derive(s, "s hs traffic", digest, s->s_hs);
    peer_use(s, &s->out, s->s_hs);
    peer_use(s, &s->in, s->c_hs);
}

static void peer_application_keys(peer *s)
{
    u8 zeros[HASH_MAX] = {0}, digest[HASH_MAX];
    peer_digest(s, digest);
    s->behind = s->both[s->hash];
    peer_extract(s, (str){zeros, hash_size(s->hash)});
    peer_derive(s, "c ap traffic", digest, s->c_ap);
    peer_derive(s, "s ap traffic", digest, s->s_ap);
    peer_use(s, &s->out, s->s_ap);
}

static void peer_verify(peer *s, writer *w)
{
    u8 text[200], digest[HASH_MAX], der[80];
    iz n = hash_size(s->hash);
    memset(text, 32, 64);
    memcpy(text + 64, "TLS 1.3, server CertificateVerify", 34);
    peer_digest(s, digest);
    copy(text + 98, digest, n);
    hash_of(SHA256, (str){text, 98 + n}, digest);
    iz len = peer_sign(digest, der);
    put_be(w, 0x0403, 2);
    put_be(w, (u64)len, 2);
    put(w, (str){der, len});
}

static void peer_verify_data(peer *s, const u8 *base, const u8 *digest, u8 out[HASH_MAX])
{
    u8 key[HASH_MAX];
    iz n = hash_size(s->hash);
    hkdf_expand_label(s->hash, (str){base, n}, S("finished"), S(""), key, n);
    hmac(s->hash, (str){key, n}, (str){digest, n}, out);
}

static void peer_step(peer *s, char step)
{
    writer w = writer_of(peer_buffer, (iz)sizeof peer_buffer);
    u8 buf[HASH_MAX], digest[HASH_MAX], leaf[600];
    put_be(&w, 0, 4);
    iz n;
    switch (step) {
    case 'H':
    case 'R':
        peer_hello(s, step == 'R');
        break;
    case 'E':
        put_be(&w, 0, 2);
        peer_message(s, 'E', 8, &w, 0);
        break;
    case 'Q':
        put(&w, S("\0\0\x0a\0\x0d\0\6\0\4\4\3\x08\4"));
        peer_message(s, 'Q', 13, &w, 1);
        break;
    case 'C':
        n = tls_unhex(peer_leaf, leaf);
        put_byte(&w, 0);
        put_be(&w, (u64)n + 5, 3);
        put_be(&w, (u64)n, 3);
        put(&w, (str){leaf, n});
        put_be(&w, 0, 2);
        peer_message(s, 'C', 11, &w, 0);
        break;
    case 'V':
        peer_verify(s, &w);
        peer_message(s, 'V', 15, &w, 0);
        break;
    case 'F':
        peer_digest(s, digest);
        peer_verify_data(s, s->s_hs, digest, buf);
        put(&w, (str){buf, hash_size(s->hash)});
        peer_message(s, 'F', 20, &w, 0);
        break;
    case 'T':
        put(&w, S("\0\0\x1c\x20\1\2\3\4\2\0\1\0\5token\0\0"));
        peer_message(s, 'T', 4, &w, 18);
        break;
    case 'K':
    case 'k':
        put_byte(&w, step == 'k');
        peer_message(s, 'K', 24, &w, 0);
        break;
    case 'M':
        n = tls_unhex(s->p.message, s->flight + s->flight_len);
        s->flight_len += n;
        break;
    case '|':
        peer_flush(s, 0);
        break;
    case '/':
        peer_flush(s, 3);
        break;
    case '0':
        s->out.on = 0;
        break;
    case '1':
        peer_handshake_keys(s);
        break;
    case '2':
        peer_application_keys(s);
        break;
    case '4':
        peer_use(s, &s->out, s->s_hs);
        break;
    case '3':
        peer_update(s, &s->out);
        break;
    case 'D':
        peer_record(s, 23, S("hello"));
        break;
    case 'd':
        peer_record(s, 23, S(""));
        break;
    case 'A':
        peer_record(s, 21, S("\1\0"));
        break;
    case 'W':
        peer_record(s, 21, S("\1\x5a"));
        break;
    case 'S':
        peer_wire(s, 20, S("\1"));
        break;
    case 'X':
    case 'Y':
    case 'Z': {
        static u8 raw[70000];
        iz len = s->p.raw ? tls_unhex(s->p.raw, raw) : s->p.raw_len;
        if (!s->p.raw)
            memset(raw, s->p.raw_fill, (size_t)len);
        memset(raw + len, 0, (size_t)s->p.raw_zeros);
        len += s->p.raw_zeros;
        for (int i = 0; i < (step == 'Z' ? 33 : 1); i++)
            if (step == 'X')
                peer_wire(s, s->p.raw_type, (str){raw, len});
            else if (s->p.raw_bare)
                peer_seal(s, (str){raw, len});
            else
                peer_record(s, s->p.raw_type, (str){raw, len});
        break;
    }
    default:
        abort();
    }
}

/* A vector of at least `least` bytes behind a length of `width`. */
static str peer_bytes(reader *r, iz width, iz least)
{
    str body = read_bytes(r, (iz)read_be(r, width));
    if (body.len < least)
        reader_fail(r, E_Truncated);
    return body;
}

static reader peer_vector(reader *r, iz width, iz least)
{
    return reader_of(peer_bytes(r, width, least));
}

/* Checks an offer of the ticket: all of pre_shared_key by RFC 8446 section 4.2.11, with the binder
 * made anew. `before` is the transcript up to this ClientHello. */
static void peer_offer(peer *s, str hello, reader body, const hash *before)
{
    u8 early[HASH_MAX], key[HASH_MAX], digest[HASH_MAX], want[HASH_MAX];
    iz n = hash_size(peer_psk_hash);
    reader identities = peer_vector(&body, 2, 7), binders = peer_vector(&body, 2, 33);
    CHECK(str_eq(peer_bytes(&identities, 2, 1), S("token")));
    CHECK(read_be(&identities, 4) == (u32)(0x01020304 + s->p.later));
    CHECK(!reader_left(&identities) && !reader_left(&body) && !body.error);
    str binder = peer_bytes(&binders, 1, n);
    CHECK(binder.len == n && !reader_left(&binders) && binders.at == hello.ptr + hello.len);
    hash fork = *before;
    hash_add(&fork, str_span(hello, 0, hello.len - n - 3));
    hkdf_extract(peer_psk_hash, S(""), (str){peer_psk, n}, early);
    hash_of(peer_psk_hash, S(""), digest);
    hkdf_expand_label(peer_psk_hash, (str){early, n}, S("res binder"), (str){digest, n}, key, n);
    hkdf_expand_label(peer_psk_hash, (str){key, n}, S("finished"), S(""), key, n);
    hash_end(&fork, digest);
    hmac(peer_psk_hash, (str){key, n}, (str){digest, n}, want);
    CHECK(str_eq(binder, (str){want, n}));
    s->offers++;
}

/* Takes a ClientHello from what the client sent: its key share and session id. */
static void peer_client_hello(peer *s, str message)
{
    reader r = reader_of(str_span(message, 4, message.len));
    hash before = s->both[peer_psk_hash];
    hash_add(&s->both[0], message);
    hash_add(&s->both[1], message);
    CHECK(read_be(&r, 2) == 0x0303);
    read_bytes(&r, 32);
    str session = peer_bytes(&r, 1, 32);
    if (session.len == 32)
        copy(s->session, session.ptr, 32);
    peer_bytes(&r, 2, 2);
    str compression = peer_bytes(&r, 1, 1);
    CHECK(compression.len == 1 && !compression.ptr[0]);
    reader block = peer_vector(&r, 2, 0);
    CHECK(!r.error && !reader_left(&r));
    while (reader_left(&block)) {
        u64 type = read_be(&block, 2);
        reader body = peer_vector(&block, 2, 0);
        if (type == 51) {
            reader list = peer_vector(&body, 2, 0);
            CHECK(read_be(&list, 2) == s->group);
            str share = peer_bytes(&list, 2, 32);
            CHECK(share.len == (s->group == 0x1d ? 32 : 65) && !reader_left(&list));
            copy(s->peer_point, share.ptr, share.len <= 65 ? share.len : 65);
        }
        if (type == 41) {
            CHECK(!reader_left(&block)); /* it must be the last */
            peer_offer(s, message, body, &before);
        }
    }
    CHECK(!block.error);
    s->hellos++;
}

static void peer_client_messages(peer *s, str content)
{
    u8 digest[HASH_MAX], expected[HASH_MAX];
    reader r = reader_of(content);
    while (reader_left(&r)) {
        const u8 *from = r.at;
        u64 type = read_be(&r, 1);
        str body = peer_bytes(&r, 3, 0);
        CHECK(!r.error);
        if (type == 20 && !s->finished) {
            hash fork = s->behind;
            hash_end(&fork, digest);
            peer_verify_data(s, s->c_hs, digest, expected);
            CHECK(str_eq(body, (str){expected, hash_size(s->hash)}));
            s->finished = 1;
            CHECK(!reader_left(&r));
            peer_use(s, &s->in, s->c_ap);
        } else if (type == 11 && !s->finished && !s->shown_one) {
            CHECK(str_eq(body, S("\0\0\0\0")));
            s->shown_one = 1;
        } else if (type == 24 && s->finished) {
            CHECK(str_eq(body, S("\0")) && !reader_left(&r));
            s->updates++;
            peer_update(s, &s->in);
        } else
            check_at(__FILE__, __LINE__, 0, "a message that the client may send");
        hash_add(&s->behind, (str){from, r.at - from});
        if (type == 20 && s->p.tickets) { /* the PSK of the ticket: section 4.6.1 */
            iz n = hash_size(s->hash);
            hash fork = s->behind;
            hash_end(&fork, digest);
            peer_derive(s, "res master", digest, expected);
            hkdf_expand_label(s->hash, (str){expected, n}, S("resumption"), S("\0\1"), peer_psk, n);
            peer_psk_hash = s->hash;
        }
    }
}

/* Reads what the client has sent since the last time. */
static void peer_read(peer *s, str wire)
{
    static u8 buf[70000];
    while (wire.len - s->read >= 5) {
        const u8 *header = wire.ptr + s->read;
        iz n = (iz)header[3] << 8 | header[4];
        if (wire.len - s->read < 5 + n)
            return;
        s->read += 5 + n;
        str content = {header + 5, n};
        u8 type = header[0];
        if (type == 23) {
            u8 nonce[12];
            copy(buf, content.ptr, n);
            peer_nonce(&s->in, nonce);
            s->in.sequence++;
            if (!s->in.on || n < 17 ||
                aead_open(&s->in.key, nonce, (str){header, 5}, buf, n - 16, buf + n - 16)) {
                check_at(__FILE__, __LINE__, 0, "a record of the client that opens");
                return;
            }
            content = (str){buf, n - 17};
            type = buf[n - 17];
        } else if (type == 20) {
            CHECK(str_eq(content, S("\1")) && !s->ccs_count++);
            continue;
        } else
            CHECK(header[1] == 3 && header[2] == (s->hellos ? 3 : 1));
        if (type == 22 && header[0] == 22)
            peer_client_hello(s, content);
        else if (type == 22)
            peer_client_messages(s, content);
        else if (type == 23) {
            copy(s->data + s->data_len, content.ptr, content.len);
            s->data_len += content.len;
        } else if (type == 21) {
            CHECK(content.len == 2 && content.ptr[0] == (content.ptr[1] ? 2 : 1) && s->alert < 0);
            s->alert = content.ptr[1];
        } else
            check_at(__FILE__, __LINE__, 0, "a type of record that the client may send");
    }
}

static void peer_run(peer *s, const char *order)
{
    for (; *order; order++)
        peer_step(s, *order);
}

/* ================= a client and its wire ================= */

typedef struct {
    tls t;
    u8 sent[100000], plain[200000];
    iz sent_len, plain_len;
} tls_user;

static const tls_entropy client_entropy = {
    {1, 2, 3}, {4, 5, 6}, {7, 8, 9, [31] = 1}, {10, 11, 12, [31] = 1}};

static tls_ticket client_ticket; /* what outlives a connection at the client */

static void client_take(tls_user *c)
{
    str out = tls_output(&c->t);
    copy(c->sent + c->sent_len, out.ptr, out.len);
    c->sent_len += out.len;
    tls_sent(&c->t, out.len);
}

static void client_start(tls_user *c, const tls_plot *p)
{
    memset(c, 0, sizeof *c);
    memset(&c->t, 0xee, sizeof c->t); /* what an earlier connection has left */
    str host = p->by_address ? S("127.0.0.1") : p->host ? unit_str(p->host) : S("test.example");
    static char roots[2000];
    unit_print(roots, sizeof roots, "%s%s", p->bundle_more ? p->bundle_more : "",
               p->roots ? p->roots : peer_root);
    i64 now = PEER_NOW * 1000ll + p->later;
    tls_start(&c->t, host, &client_entropy, now, !p->no_aes, unit_str(roots),
              p->tickets ? &client_ticket : 0);
    client_take(c);
}

static void client_feed(tls_user *c, str wire)
{
    for (;;) {
        str plain = tls_plain(&c->t);
        if (plain.len) {
            iz n = plain.len > 1 ? plain.len / 2 : 1;
            copy(c->plain + c->plain_len, plain.ptr, n);
            c->plain_len += n;
            tls_consume(&c->t, n);
            continue;
        }
        iz room;
        u8 *at = tls_input_room(&c->t, &room);
        iz n = room < wire.len ? room : wire.len;
        if (!n)
            break;
        copy(at, wire.ptr, n);
        tls_input(&c->t, n);
        wire = str_span(wire, n, wire.len);
    }
    client_take(c);
}

static peer the_peer;
static tls_user the_client;

static void peer_start(peer *s, const tls_plot *p)
{
    memset(s, 0, sizeof *s);
    s->p = *p;
    s->suite = p->suite ? p->suite : 0x1303;
    s->hash = s->suite == 0x1302 ? SHA384 : SHA256;
    s->cipher = s->suite == 0x1303   ? CHACHA20_POLY1305
                : s->suite == 0x1302 ? AES_256_GCM
                                     : AES_128_GCM;
    s->group = 0x1d;
    s->alert = -1;
    hash_init(&s->both[0], SHA256);
    hash_init(&s->both[1], SHA384);
}

#define TLST_GOOD "H|1SECVF|2"

/* Runs a plan to its end. */
static void plan_run(const tls_plot *p)
{
    peer *s = &the_peer;
    tls_user *c = &the_client;
    peer_start(s, p);
    client_start(c, p);
    peer_read(s, (str){c->sent, c->sent_len});
    if (p->retry) {
        peer_run(s, p->retry);
        client_feed(c, (str){s->wire, s->wire_len});
        s->wire_len = 0;
        peer_read(s, (str){c->sent, c->sent_len});
    }
    peer_run(s, p->order ? p->order : TLST_GOOD "DA");
    client_feed(c, (str){s->wire, s->wire_len});
    peer_read(s, (str){c->sent, c->sent_len});
}

typedef struct {
    const char *what;
    err error;
    int alert; /* -1: none */
    tls_plot p;
} tls_verdict;

static void check_refusals(const tls_verdict *rows, iz count)
{
    for (iz i = 0; i < count; i++) {
        const tls_verdict *r = &rows[i];
        plan_run(&r->p);
        const tls *t = &the_client.t;
        b32 good = t->error == r->error && the_peer.alert == r->alert;
        if (!good)
            fprintf(stderr, "%s: %s, alert %d; expected %s, %d\n", r->what, unit_error(t->error),
                    the_peer.alert, unit_error(r->error), r->alert);
        CHECK(good);
        CHECK(!t->receive.on && !t->send.on && t->state == TLS_ENDED);
        tls_keys none = {0};
        CHECK(!memcmp(&t->receive, &none, sizeof none) && !memcmp(&t->send, &none, sizeof none));
        tls_entropy nothing = {0};
        CHECK(!memcmp(&t->entropy, &nothing, sizeof nothing));
        u8 zeros[HASH_MAX] = {0};
        CHECK(!memcmp(t->secret, zeros, HASH_MAX));
    }
}

/* ---- what is refused, with the alert ---- */

#define SH_EXT 72 /* ServerHello's body: 67 suite, 69 compression, 70 extensions, 72 the first */

static void test_tls_refused_hello(void)
{
    static const tls_verdict rows[] = {
        {"legacy_version 0x0301", E_TlsHelloVersion, 47, {.letter = 'H', .flip = {{1, 2}}}},
        {"legacy_version 0x0304", E_TlsHelloVersion, 47, {.letter = 'H', .flip = {{1, 7}}}},
        {"session id: first byte", E_TlsHelloEcho, 47, {.letter = 'H', .flip = {{35, 1}}}},
        {"session id: last byte", E_TlsHelloEcho, 47, {.letter = 'H', .flip = {{66, 1}}}},
        {"session id empty",
         E_TlsHelloEcho,
         47,
         {.letter = 'H',
          .body = "0303"
                  "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
                  "00"
                  "1303"
                  "00"
                  "0006"
                  "002b00020304"}},
        {"session id of 33 bytes", E_TlsMessageForm, 50, {.letter = 'H', .flip = {{34, 1}}}},
        {"suite 0x1304", E_TlsSuite, 47, {.letter = 'H', .flip = {{68, 7}}}},
        {"suite 0x1300", E_TlsSuite, 47, {.letter = 'H', .flip = {{68, 3}}}},
        {"suite 0xc02f", E_TlsSuite, 47, {.letter = 'H', .flip = {{67, 0xd3}, {68, 0x2c}}}},
        {"suite AES-128 not offered",
         E_TlsSuite,
         47,
         {.letter = 'H', .flip = {{68, 2}}, .no_aes = 1}},
        {"suite AES-256 not offered",
         E_TlsSuite,
         47,
         {.letter = 'H', .flip = {{68, 1}}, .no_aes = 1}},
        {"compression 1", E_TlsHelloEcho, 47, {.letter = 'H', .flip = {{69, 1}}}},
        {"a byte short", E_TlsMessageForm, 50, {.letter = 'H', .trim = 1}},
        {"a byte more", E_TlsMessageForm, 50, {.letter = 'H', .extra = 1}},
        {"empty", E_TlsMessageForm, 50, {.letter = 'H', .body = "", .trim = 0}},
        {"no extension block",
         E_TlsVersion,
         70,
         {.letter = 'H',
          .body = "0303"
                  "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
                  "00"
                  "c02f"
                  "00"}},
        {"TLS 1.2", E_TlsVersion, 70, {.letter = 'H', .flip = {{SH_EXT + 1, 0x2b ^ 23}}}},
        {"TLS 1.1, other extensions",
         E_TlsVersion,
         70,
         {.letter = 'H', .flip = {{1, 1}, {SH_EXT + 1, 0x2b ^ 11}}}},
        {"TLS 1.2 with the mark of 1.2",
         E_TlsDowngrade,
         47,
         {.letter = 'H',
          .flip = {{26, 0xb8 ^ 0x44},
                   {27, 0xb9 ^ 0x4f},
                   {28, 0xba ^ 0x57},
                   {29, 0xbb ^ 0x4e},
                   {30, 0xbc ^ 0x47},
                   {31, 0xbd ^ 0x52},
                   {32, 0xbe ^ 0x44},
                   {33, 0xbf ^ 1},
                   {SH_EXT + 1, 0x2b ^ 23}}}},
        {"TLS 1.1 with the mark of 1.1",
         E_TlsDowngrade,
         47,
         {.letter = 'H',
          .flip = {{26, 0xb8 ^ 0x44},
                   {27, 0xb9 ^ 0x4f},
                   {28, 0xba ^ 0x57},
                   {29, 0xbb ^ 0x4e},
                   {30, 0xbc ^ 0x47},
                   {31, 0xbd ^ 0x52},
                   {32, 0xbe ^ 0x44},
                   {33, 0xbf},
                   {SH_EXT + 1, 0x2b ^ 23},
                   {1, 1}}}},
        {"selected_version 0x0303",
         E_TlsHelloVersion,
         47,
         {.letter = 'H', .flip = {{SH_EXT + 5, 7}}}},
        {"selected_version 0x0305",
         E_TlsHelloVersion,
         47,
         {.letter = 'H', .flip = {{SH_EXT + 5, 1}}}},
        {"selected_version 0x7f1c",
         E_TlsHelloVersion,
         47,
         {.letter = 'H', .flip = {{SH_EXT + 4, 0x7c}, {SH_EXT + 5, 0x18}}}},
        {"supported_versions of 3 bytes",
         E_TlsMessageForm,
         50,
         {.letter = 'H', .flip = {{SH_EXT + 3, 1}}}},
        {"no key_share", E_TlsExtensionMissing, 109, {.letter = 'H', .cut = 40}},
        {"key_share of secp256r1", E_TlsGroup, 47, {.letter = 'H', .flip = {{83, 0x1d ^ 0x17}}}},
        {"key_share of x448", E_TlsGroup, 47, {.letter = 'H', .flip = {{83, 3}}}},
        {"key_share of 31 bytes",
         E_TlsGroup,
         47,
         {.letter = 'H', .cut = 1, .flip = {{81, 0x24 ^ 0x23}, {85, 0x20 ^ 0x1f}}}},
        {"key_share of 33 bytes",
         E_TlsGroup,
         47,
         {.letter = 'H', .more = "00", .flip = {{81, 1}, {85, 1}}}},
        {"key_share empty",
         E_TlsMessageForm,
         50,
         {.letter = 'H', .cut = 32, .flip = {{81, 0x20}, {85, 0x20}}}},
        {"key_share with a byte behind",
         E_TlsMessageForm,
         50,
         {.letter = 'H', .more = "00", .flip = {{81, 1}}}},
        {"key_share of a HelloRetryRequest",
         E_TlsMessageForm,
         50,
         {.letter = 'H', .cut = 34, .flip = {{81, 0x26}}}},
        {"key_share of order 1",
         E_KeyShareZero,
         47,
         {.letter = 'H',
          .cut = 36,
          .flip = {{81, 0}},
          .more = "001d00200000000000000000000000000000000000000000000000000000000000000000"}},
        {"key_share of order 8",
         E_KeyShareZero,
         47,
         {.letter = 'H',
          .cut = 36,
          .more = "001d0020e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"}},
        {"supported_versions twice",
         E_TlsExtensionTwice,
         47,
         {.letter = 'H', .more = "002b00020304"}},
        {"cookie in ServerHello",
         E_TlsExtensionPlace,
         47,
         {.letter = 'H', .more = "002c0003000100"}},
        {"server_name in ServerHello",
         E_TlsExtensionPlace,
         47,
         {.letter = 'H', .more = "00000000"}},
        {"ALPN in ServerHello",
         E_TlsExtensionPlace,
         47,
         {.letter = 'H', .more = "0010000b000908687474702f312e31"}},
        {"pre_shared_key unasked",
         E_TlsExtensionUnasked,
         110,
         {.letter = 'H', .more = "002900020000"}},
        {"extended_master_secret", E_TlsExtensionUnasked, 110, {.letter = 'H', .more = "00170000"}},
        {"renegotiation_info", E_TlsExtensionUnasked, 110, {.letter = 'H', .more = "ff01000100"}},
        {"extension type unknown", E_TlsExtensionUnasked, 110, {.letter = 'H', .more = "fafa0000"}},
        {"extension header cut", E_TlsMessageForm, 50, {.letter = 'H', .more = "00"}},
        {"extension body cut", E_TlsMessageForm, 50, {.letter = 'H', .more = "002c0003"}},
    };
    check_refusals(rows, countof(rows));
}

static void test_tls_refused_retry(void)
{
#define AGAIN .retry = "R|S", .group = 0x17, .letter = 'R'
    static const tls_verdict rows[] = {
        {"legacy_version", E_TlsHelloVersion, 47, {AGAIN, .order = "", .flip = {{1, 1}}}},
        {"session id", E_TlsHelloEcho, 47, {AGAIN, .order = "", .flip = {{35, 1}}}},
        {"suite", E_TlsSuite, 47, {AGAIN, .order = "", .flip = {{68, 7}}}},
        {"compression", E_TlsHelloEcho, 47, {AGAIN, .order = "", .flip = {{69, 1}}}},
        {"no supported_versions", E_TlsVersion, 70, {AGAIN, .order = "", .flip = {{73, 1}}}},
        {"selected_version", E_TlsHelloVersion, 47, {AGAIN, .order = "", .flip = {{77, 1}}}},
        {"group x25519, already sent",
         E_TlsGroup,
         47,
         {AGAIN, .order = "", .flip = {{83, 0x17 ^ 0x1d}}}},
        {"group secp384r1, not offered",
         E_TlsGroup,
         47,
         {AGAIN, .order = "", .flip = {{83, 0x17 ^ 0x18}}}},
        {"nothing asked", E_TlsRetry, 47, {.retry = "R|", .order = ""}},
        {"key_share with a share",
         E_TlsMessageForm,
         50,
         {AGAIN, .order = "", .flip = {{81, 1}}, .more = "00"}},
        {"cookie of no bytes", E_TlsMessageForm, 50, {AGAIN, .order = "", .more = "002c00020000"}},
        {"cookie a byte short",
         E_TlsMessageForm,
         50,
         {AGAIN, .order = "", .more = "002c00040003ffff"}},
        {"cookie a byte long",
         E_TlsMessageForm,
         50,
         {AGAIN, .order = "", .more = "002c00040001ffff"}},
        {"cookie twice",
         E_TlsExtensionTwice,
         47,
         {AGAIN, .order = "", .more = "002c00030001ff002c00030001ff"}},
        {"ALPN in HelloRetryRequest",
         E_TlsExtensionPlace,
         47,
         {AGAIN, .order = "", .more = "0010000b000908687474702f312e31"}},
        {"unknown extension", E_TlsExtensionUnasked, 110, {AGAIN, .order = "", .more = "0a0a0000"}},
        {"a byte more", E_TlsMessageForm, 50, {AGAIN, .order = "", .extra = 1}},
        {"bytes behind it in the record",
         E_TlsKeyChange,
         10,
         {.retry = "RE|", .group = 0x17, .order = ""}},
        {"a second one", E_TlsRetry, 10, {.retry = "R|", .group = 0x17, .order = "R|"}},
        {"a second one, with a cookie now",
         E_TlsRetry,
         10,
         {.retry = "R|", .group = 0x17, .order = "R|", .letter = 'R', .more = "002c00030001ff"}},
        {"another suite in ServerHello",
         E_TlsSuite,
         47,
         {.retry = "R|", .group = 0x17, .letter = 'H', .flip = {{68, 2}}}},
        {"the old group in ServerHello",
         E_TlsGroup,
         47,
         {.retry = "R|", .group = 0x17, .letter = 'H', .flip = {{83, 0x17 ^ 0x1d}}}},
        {"point off the curve",
         E_PointInvalid,
         47,
         {.retry = "R|", .group = 0x17, .letter = 'H', .flip = {{150, 1}}}},
        {"point of 64 bytes",
         E_TlsGroup,
         47,
         {.retry = "R|",
          .group = 0x17,
          .letter = 'H',
          .cut = 1,
          .flip = {{81, 0x45 ^ 0x44}, {85, 0x41 ^ 0x40}}}},
        {"point compressed",
         E_PointInvalid,
         47,
         {.retry = "R|", .group = 0x17, .letter = 'H', .flip = {{86, 4 ^ 2}}}},
        {"point in hybrid form",
         E_PointInvalid,
         47,
         {.retry = "R|", .group = 0x17, .letter = 'H', .flip = {{86, 4 ^ 6}}}},
    };
#undef AGAIN
    check_refusals(rows, countof(rows));
}

#define PART(l) .letter = l, .order = "H|1SEQCVF|2"

static void test_tls_refused_flight(void)
{
    static const tls_verdict rows[] = {
        /* EncryptedExtensions */
        {"EE a byte short", E_TlsMessageForm, 50, {PART('E'), .trim = 1}},
        {"EE a byte more", E_TlsMessageForm, 50, {PART('E'), .extra = 1}},
        {"EE empty", E_TlsMessageForm, 50, {PART('E'), .body = ""}},
        {"EE key_share", E_TlsExtensionPlace, 47, {PART('E'), .more = "00330002001d"}},
        {"EE supported_versions", E_TlsExtensionPlace, 47, {PART('E'), .more = "002b00020304"}},
        {"EE signature_algorithms",
         E_TlsExtensionPlace,
         47,
         {PART('E'), .more = "000d000400020403"}},
        {"EE cookie", E_TlsExtensionPlace, 47, {PART('E'), .more = "002c0003000100"}},
        {"EE psk_key_exchange_modes", E_TlsExtensionPlace, 47, {PART('E'), .more = "002d00020101"}},
        {"EE early_data", E_TlsExtensionUnasked, 110, {PART('E'), .more = "002a0000"}},
        {"EE max_fragment_length", E_TlsExtensionUnasked, 110, {PART('E'), .more = "0001000101"}},
        {"EE record_size_limit", E_TlsExtensionUnasked, 110, {PART('E'), .more = "001c00024001"}},
        {"EE status_request", E_TlsExtensionUnasked, 110, {PART('E'), .more = "00050000"}},
        {"EE unknown", E_TlsExtensionUnasked, 110, {PART('E'), .more = "12340000"}},
        {"EE server_name for an address",
         E_TlsExtensionUnasked,
         110,
         {PART('E'), .more = "00000000", .by_address = 1}},
        {"EE server_name not empty", E_TlsMessageForm, 50, {PART('E'), .more = "0000000100"}},
        {"EE server_name twice", E_TlsExtensionTwice, 47, {PART('E'), .more = "0000000000000000"}},
        {"EE groups empty", E_TlsMessageForm, 50, {PART('E'), .more = "000a00020000"}},
        {"EE groups odd", E_TlsMessageForm, 50, {PART('E'), .more = "000a0005000300170a"}},
        {"EE groups long", E_TlsMessageForm, 50, {PART('E'), .more = "000a00050002001700"}},
        {"EE ALPN h2", E_TlsAlpn, 47, {PART('E'), .more = "001000050003026832"}},
        {"EE ALPN http/1.0", E_TlsAlpn, 47, {PART('E'), .more = "0010000b000908687474702f312e30"}},
        {"EE ALPN empty list", E_TlsMessageForm, 50, {PART('E'), .more = "001000020000"}},
        {"EE ALPN empty name", E_TlsMessageForm, 50, {PART('E'), .more = "00100003000100"}},
        {"EE ALPN two names",
         E_TlsMessageForm,
         50,
         {PART('E'), .more = "001000140012"
                             "08687474702f312e31"
                             "08687474702f312e31"}},
        {"EE ALPN a byte behind",
         E_TlsMessageForm,
         50,
         {PART('E'), .more = "0010000c000908687474702f312e3100"}},
        /* CertificateRequest */
        {"CR with a context",
         E_TlsRequestContext,
         47,
         {PART('Q'), .body = "01aa"
                             "0008"
                             "000d000400020403"}},
        {"CR without signature_algorithms",
         E_TlsExtensionMissing,
         109,
         {PART('Q'), .body = "00"
                             "0004"
                             "002f0000"}},
        {"CR without extensions",
         E_TlsMessageForm,
         50,
         {PART('Q'), .body = "00"
                             "0000"}},
        {"CR without block", E_TlsMessageForm, 50, {PART('Q'), .body = "00"}},
        {"CR schemes empty",
         E_TlsMessageForm,
         50,
         {PART('Q'), .body = "00"
                             "0006"
                             "000d00020000"}},
        {"CR schemes odd",
         E_TlsMessageForm,
         50,
         {PART('Q'), .body = "00"
                             "0007"
                             "000d0003000104"}},
        {"CR signature_algorithms twice",
         E_TlsExtensionTwice,
         47,
         {PART('Q'), .more = "000d000400020403"}},
        {"CR unknown twice", E_TlsExtensionTwice, 47, {PART('Q'), .more = "5a5a00005a5a0000"}},
        {"CR key_share", E_TlsExtensionPlace, 47, {PART('Q'), .more = "00330002001d"}},
        {"CR server_name", E_TlsExtensionPlace, 47, {PART('Q'), .more = "00000000"}},
        {"CR a byte more", E_TlsMessageForm, 50, {PART('Q'), .extra = 1}},
        {"CR a byte short", E_TlsMessageForm, 50, {PART('Q'), .trim = 1}},
        /* Certificate */
        {"Certificate with a context",
         E_TlsRequestContext,
         47,
         {PART('C'), .body = "01aa"
                             "000006"
                             "00000130"
                             "0000"}},
        {"no certificate",
         E_TlsCertificateCount,
         50,
         {PART('C'), .body = "00"
                             "000000"}},
        {"empty certificate",
         E_TlsMessageForm,
         50,
         {PART('C'), .body = "00"
                             "000005"
                             "0000000000"}},
        {"entry without extensions",
         E_TlsMessageForm,
         50,
         {PART('C'), .body = "00"
                             "000004"
                             "00000130"}},
        {"list a byte short", E_TlsMessageForm, 50, {PART('C'), .trim = 1}},
        {"list a byte long", E_TlsMessageForm, 50, {PART('C'), .extra = 1}},
        {"status_request unasked",
         E_TlsExtensionUnasked,
         110,
         {PART('C'), .body = "00"
                             "00000a"
                             "00000130"
                             "0004"
                             "00050000"}},
        {"SCT unasked",
         E_TlsExtensionUnasked,
         110,
         {PART('C'), .body = "00"
                             "00000a"
                             "00000130"
                             "0004"
                             "00120000"}},
        {"unknown in Certificate",
         E_TlsExtensionUnasked,
         110,
         {PART('C'), .body = "00"
                             "00000a"
                             "00000130"
                             "0004"
                             "77770000"}},
        {"server_name in Certificate",
         E_TlsExtensionPlace,
         47,
         {PART('C'), .body = "00"
                             "00000a"
                             "00000130"
                             "0004"
                             "00000000"}},
        {"33 certificates",
         E_TlsCertificateCount,
         42,
         {PART('C'), .body =
                         "00"
                         "0000c6"
                         "000001300000000001300000000001300000000001300000000001300000000001300000"
                         "000001300000000001300000000001300000000001300000000001300000000001300000"
                         "000001300000000001300000000001300000000001300000000001300000000001300000"
                         "000001300000000001300000000001300000000001300000000001300000000001300000"
                         "000001300000000001300000000001300000000001300000000001300000000001300000"
                         "000001300000000001300000000001300000"}},
        {"signature of the certificate",
         E_CertSignatureBad,
         42,
         {PART('C'), .flip = {{4 + 3 + 400, 1}}}},
        /* CertificateVerify */
        {"CV scheme rsa_pss_rsae_sha256",
         E_TlsScheme,
         47,
         {PART('V'), .flip = {{0, 4 ^ 8}, {1, 3 ^ 4}}}},
        {"CV scheme ecdsa_secp384r1_sha384", E_TlsScheme, 47, {PART('V'), .flip = {{0, 1}}}},
        {"CV scheme rsa_pkcs1_sha256", E_TlsScheme, 47, {PART('V'), .flip = {{1, 2}}}},
        {"CV scheme ecdsa_sha1", E_TlsScheme, 47, {PART('V'), .flip = {{0, 6}}}},
        {"CV scheme ed25519", E_TlsScheme, 47, {PART('V'), .flip = {{0, 0xc}, {1, 4}}}},
        {"CV signature changed", E_TlsCertificateVerify, 51, {PART('V'), .flip = {{44, 1}}}},
        {"CV DER changed", E_TlsCertificateVerify, 51, {PART('V'), .flip = {{4, 1}}}},
        {"CV signature empty", E_TlsCertificateVerify, 51, {PART('V'), .body = "04030000"}},
        {"CV a byte short", E_TlsMessageForm, 50, {PART('V'), .trim = 1}},
        {"CV a byte more", E_TlsMessageForm, 50, {PART('V'), .extra = 1}},
        {"CV too short for a scheme", E_TlsMessageForm, 50, {PART('V'), .body = "04"}},
        /* Finished */
        {"Finished first byte", E_TlsFinished, 51, {PART('F'), .flip = {{0, 1}}}},
        {"Finished last byte", E_TlsFinished, 51, {PART('F'), .flip = {{31, 0x80}}}},
        {"Finished a byte short", E_TlsMessageForm, 50, {PART('F'), .trim = 1}},
        {"Finished a byte more", E_TlsMessageForm, 50, {PART('F'), .extra = 1}},
        {"Finished empty", E_TlsMessageForm, 50, {PART('F'), .body = ""}},
    };
    check_refusals(rows, countof(rows));
}

static void test_tls_refused_order(void)
{
    static const tls_verdict rows[] = {
        {"EE in the clear", E_TlsRecordType, 10, {.order = "H|10E|"}},
        {"EE first", E_TlsMessageOrder, 10, {.order = "E|"}},
        {"Certificate first", E_TlsMessageOrder, 10, {.order = "C|"}},
        {"Finished first", E_TlsMessageOrder, 10, {.order = "F|"}},
        {"ServerHello twice", E_TlsMessageOrder, 10, {.order = "H|1H|"}},
        {"HelloRetryRequest after ServerHello", E_TlsMessageOrder, 10, {.order = "H|1R|"}},
        {"no EE", E_TlsMessageOrder, 10, {.order = "H|1CVF|"}},
        {"EE twice", E_TlsMessageOrder, 10, {.order = "H|1EECVF|"}},
        {"CR before EE", E_TlsMessageOrder, 10, {.order = "H|1QECVF|"}},
        {"CR twice", E_TlsMessageOrder, 10, {.order = "H|1EQQCVF|"}},
        {"CR after Certificate", E_TlsMessageOrder, 10, {.order = "H|1ECQVF|"}},
        {"Certificate twice", E_TlsMessageOrder, 10, {.order = "H|1ECCVF|"}},
        {"no Certificate", E_TlsMessageOrder, 10, {.order = "H|1EVF|"}},
        {"no Certificate after CR", E_TlsMessageOrder, 10, {.order = "H|1EQVF|"}},
        {"no CertificateVerify", E_TlsMessageOrder, 10, {.order = "H|1ECF|"}},
        {"CertificateVerify twice", E_TlsMessageOrder, 10, {.order = "H|1ECVVF|"}},
        {"straight to Finished", E_TlsMessageOrder, 10, {.order = "H|1EF|"}},
        {"ticket before Finished", E_TlsMessageOrder, 10, {.order = "H|1ECVT|"}},
        {"KeyUpdate before Finished", E_TlsMessageOrder, 10, {.order = "H|1ECVK|"}},
        {"KeyUpdate in the clear", E_TlsMessageOrder, 10, {.order = "K|"}},
        {"HelloRequest", E_TlsMessageOrder, 10, {.order = "M|", .message = "00000000"}},
        {"ClientHello", E_TlsMessageOrder, 10, {.order = "M|", .message = "01000000"}},
        {"unknown type, long, header only",
         E_TlsMessageOrder,
         10,
         {.order = "M|", .message = "63ffffff"}},
        {"EndOfEarlyData", E_TlsMessageOrder, 10, {.order = "H|1M|", .message = "05000000"}},
        {"message_hash", E_TlsMessageOrder, 10, {.order = "H|1M|", .message = "fe000000"}},
        {"ServerHello over the limit",
         E_TlsMessageSize,
         47,
         {.order = "M|", .message = "02010401"}},
        {"Certificate over the limit",
         E_TlsMessageSize,
         47,
         {.order = "H|1EM|", .message = "0b0103fd"}},
        /* after the handshake */
        {"EE after the handshake", E_TlsMessageOrder, 10, {.order = TLST_GOOD "E|"}},
        {"Finished after the handshake", E_TlsMessageOrder, 10, {.order = TLST_GOOD "F|"}},
        {"Certificate after the handshake", E_TlsMessageOrder, 10, {.order = TLST_GOOD "C|"}},
        {"CR after the handshake", E_TlsMessageOrder, 10, {.order = TLST_GOOD "Q|"}},
        {"ServerHello after the handshake", E_TlsMessageOrder, 10, {.order = TLST_GOOD "H|"}},
        {"HelloRequest after the handshake",
         E_TlsMessageOrder,
         10,
         {.order = TLST_GOOD "M|", .message = "00000000"}},
        {"ClientHello after the handshake",
         E_TlsMessageOrder,
         10,
         {.order = TLST_GOOD "M|",
          .message = "0100"
                     "0000"}},
        {"ticket under the handshake keys", E_AeadTag, 20, {.order = TLST_GOOD "4T|"}},
        {"ticket a byte short",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "T|", .letter = 'T', .trim = 1}},
        {"ticket a byte more",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "T|", .letter = 'T', .extra = 1}},
        {"ticket empty",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "M|",
          .message = "0400000d"
                     "00000001"
                     "00000002"
                     "00"
                     "0000"
                     "0000"}},
        {"ticket early_data of 3 bytes",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "T|", .letter = 'T', .more = "002a0003000000"}},
        {"ticket early_data of 5 bytes",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "T|", .letter = 'T', .more = "002a00050000000000"}},
        {"ticket key_share",
         E_TlsExtensionPlace,
         47,
         {.order = TLST_GOOD "T|", .letter = 'T', .more = "00330002001d"}},
        {"ticket extension twice",
         E_TlsExtensionTwice,
         47,
         {.order = TLST_GOOD "T|", .letter = 'T', .more = "fa000000fa000000"}},
        {"33 tickets", E_TlsFlood, 10, {.order = TLST_GOOD "TTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT|"}},
        {"KeyUpdate 2",
         E_TlsKeyUpdate,
         47,
         {.order = TLST_GOOD "K|", .letter = 'K', .flip = {{0, 2}}}},
        {"KeyUpdate 255",
         E_TlsKeyUpdate,
         47,
         {.order = TLST_GOOD "K|", .letter = 'K', .flip = {{0, 255}}}},
        {"KeyUpdate empty",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "K|", .letter = 'K', .trim = 1}},
        {"KeyUpdate of 2 bytes",
         E_TlsMessageForm,
         50,
         {.order = TLST_GOOD "K|", .letter = 'K', .extra = 1}},
        {"data under the old key", E_AeadTag, 20, {.order = TLST_GOOD "K|D"}},
        {"data under a new key unannounced", E_AeadTag, 20, {.order = TLST_GOOD "3D"}},
        {"33 KeyUpdates",
         E_TlsFlood,
         10,
         {.order =
              TLST_GOOD "K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|3K|"
                        "3K|3K|3K|3K|3K|3K|3K|3K|3"}},
        /* keys change where a record ends */
        {"EE in ServerHello's record", E_TlsKeyChange, 10, {.order = "HE|"}},
        {"one byte in ServerHello's record", E_TlsKeyChange, 10, {.order = "HM|", .message = "08"}},
        {"ticket in Finished's record", E_TlsKeyChange, 10, {.order = "H|1ECVFT|"}},
        {"one byte in Finished's record",
         E_TlsKeyChange,
         10,
         {.order = "H|1ECVFM|", .message = "04"}},
        {"ticket in KeyUpdate's record", E_TlsKeyChange, 10, {.order = TLST_GOOD "KT|"}},
        {"KeyUpdate in KeyUpdate's record", E_TlsKeyChange, 10, {.order = TLST_GOOD "KK|"}},
        /* nothing between the records of one message */
        {"CCS inside ServerHello", E_TlsInterleaved, 10, {.order = "H/S|"}},
        {"CCS inside Certificate", E_TlsInterleaved, 10, {.order = "H|1EC/S|"}},
        {"data inside a ticket", E_TlsInterleaved, 10, {.order = TLST_GOOD "T/D|"}},
        {"empty data inside a ticket", E_TlsInterleaved, 10, {.order = TLST_GOOD "T/d|"}},
        {"user_canceled inside a ticket", E_TlsInterleaved, 10, {.order = TLST_GOOD "T/W|"}},
        {"close_notify inside a ticket", E_TlsInterleaved, 10, {.order = TLST_GOOD "T/A|"}},
        {"user_canceled inside Certificate", E_TlsInterleaved, 10, {.order = "H|1EC/W|"}},
    };
    check_refusals(rows, countof(rows));
}

static void test_tls_refused_records(void)
{
    static const tls_verdict rows[] = {
        /* before keys */
        {"type 0", E_TlsRecordType, 10, {.order = "X", .raw_type = 0, .raw = "00"}},
        {"type 19", E_TlsRecordType, 10, {.order = "X", .raw_type = 19, .raw = "00"}},
        {"type 24", E_TlsRecordType, 10, {.order = "X", .raw_type = 24, .raw = "00"}},
        {"HTTP", E_TlsRecordType, 10, {.order = "X", .raw_type = 'H', .raw = "00"}},
        {"data before keys", E_TlsRecordType, 10, {.order = "X", .raw_type = 23, .raw = "00"}},
        {"empty handshake", E_TlsRecordEmpty, 10, {.order = "X", .raw_type = 22, .raw = ""}},
        {"empty alert", E_TlsRecordEmpty, 10, {.order = "X", .raw_type = 21, .raw = ""}},
        {"empty handshake inside a message",
         E_TlsRecordEmpty,
         10,
         {.order = "H/X|", .raw_type = 22, .raw = ""}},
        {"handshake of 2^14 + 1",
         E_TlsRecordLength,
         22,
         {.order = "X", .raw_type = 22, .raw_len = 16385, .raw_fill = 2}},
        {"alert of 1 byte", E_TlsAlertForm, 50, {.order = "X", .raw_type = 21, .raw = "02"}},
        {"alert of 3 bytes", E_TlsAlertForm, 50, {.order = "X", .raw_type = 21, .raw = "022800"}},
        {"two alerts", E_TlsAlertForm, 50, {.order = "X", .raw_type = 21, .raw = "015a0100"}},
        {"CCS 0", E_TlsChangeCipherSpec, 10, {.order = "X", .raw_type = 20, .raw = "00"}},
        {"CCS 2", E_TlsChangeCipherSpec, 10, {.order = "X", .raw_type = 20, .raw = "02"}},
        {"CCS empty", E_TlsChangeCipherSpec, 10, {.order = "X", .raw_type = 20, .raw = ""}},
        {"CCS of 2 bytes",
         E_TlsChangeCipherSpec,
         10,
         {.order = "X", .raw_type = 20, .raw = "0101"}},
        {"5 CCS", E_TlsFlood, 10, {.order = "SSSSS"}},
        {"5 CCS spread", E_TlsFlood, 10, {.order = "SH|1SE|SC|SV|S"}},
        /* from the server or a man in the middle, after ServerHello */
        {"data in the clear after ServerHello",
         E_AeadTag,
         20,
         {.order = "H|1X", .raw_type = 23, .raw_len = 40, .raw_fill = 'x'}},
        {"alert in the clear after ServerHello",
         E_TlsRecordType,
         10,
         {.order = "H|1X", .raw_type = 21, .raw = "0100"}},
        {"type 24 after ServerHello",
         E_TlsRecordType,
         10,
         {.order = "H|1X", .raw_type = 24, .raw_len = 40, .raw_fill = 'x'}},
        {"record of 16 bytes",
         E_AeadTag,
         20,
         {.order = "H|1X", .raw_type = 23, .raw_len = 16, .raw_fill = 'x'}},
        {"record of 15 bytes",
         E_AeadTag,
         20,
         {.order = "H|1X", .raw_type = 23, .raw_len = 15, .raw_fill = 'x'}},
        {"record of 0 bytes", E_AeadTag, 20, {.order = "H|1X", .raw_type = 23, .raw = ""}},
        {"record of 2^14 + 257",
         E_TlsRecordLength,
         22,
         {.order = "H|1X", .raw_type = 23, .raw_len = 16384 + 257, .raw_fill = 'x'}},
        {"record of 2^14 + 256, not sealed",
         E_AeadTag,
         20,
         {.order = "H|1X", .raw_type = 23, .raw_len = 16384 + 256, .raw_fill = 'x'}},
        {"inner plaintext of 2^14 + 2",
         E_TlsRecordLength,
         22,
         {.order = TLST_GOOD "Y", .raw_bare = 1, .raw_len = 16386, .raw_fill = 23}},
        {"the same, of padding",
         E_TlsRecordLength,
         22,
         {.order = TLST_GOOD "Y", .raw_type = 23, .raw = "aa", .padding = 16384}},
        {"nothing but the tag",
         E_TlsRecordEmpty,
         10,
         {.order = TLST_GOOD "Y", .raw_bare = 1, .raw_len = 0}},
        {"nothing but padding",
         E_TlsRecordEmpty,
         10,
         {.order = TLST_GOOD "Y", .raw_bare = 1, .raw_len = 100}},
        {"sealed empty handshake",
         E_TlsRecordEmpty,
         10,
         {.order = "H|1Y", .raw_type = 22, .raw = ""}},
        {"sealed empty handshake, padded",
         E_TlsRecordEmpty,
         10,
         {.order = "H|1Y", .raw_type = 22, .raw = "", .padding = 9}},
        {"sealed empty alert",
         E_TlsRecordEmpty,
         10,
         {.order = TLST_GOOD "Y", .raw_type = 21, .raw = ""}},
        {"sealed alert of 1 byte",
         E_TlsAlertForm,
         50,
         {.order = TLST_GOOD "Y", .raw_type = 21, .raw = "01"}},
        {"sealed alert of 3 bytes",
         E_TlsAlertForm,
         50,
         {.order = TLST_GOOD "Y", .raw_type = 21, .raw = "010001"}},
        {"sealed CCS", E_TlsRecordType, 10, {.order = "H|1Y", .raw_type = 20, .raw = "01"}},
        {"sealed type 24",
         E_TlsRecordType,
         10,
         {.order = TLST_GOOD "Y", .raw_type = 24, .raw = "01"}},
        {"sealed type 255",
         E_TlsRecordType,
         10,
         {.order = TLST_GOOD "Y", .raw_type = 255, .raw = "01"}},
        {"data before Finished", E_TlsRecordType, 10, {.order = "H|1D"}},
        {"data before Finished, late", E_TlsRecordType, 10, {.order = "H|1ECV|D"}},
        {"data under the handshake keys", E_AeadTag, 20, {.order = TLST_GOOD "4D"}},
        {"CCS after Finished", E_TlsChangeCipherSpec, 10, {.order = TLST_GOOD "S"}},
        {"alert in the clear after Finished",
         E_TlsRecordType,
         10,
         {.order = TLST_GOOD "X", .raw_type = 21, .raw = "0100"}},
        {"33 empty records", E_TlsFlood, 10, {.order = TLST_GOOD "Z", .raw_type = 23, .raw = ""}},
        {"5 user_canceled", E_TlsFlood, 10, {.order = TLST_GOOD "WWWWW"}},
        {"5 user_canceled in the clear", E_TlsFlood, 10, {.order = "WWWWW"}},
        {"padding without end",
         E_TlsFlood,
         10,
         {.order = "H|1EC|", .padding = 16000, .fragment = 6}},
        /* alerts of the server */
        {"protocol_version", E_TlsVersion, -1, {.order = "X", .raw_type = 21, .raw = "0246"}},
        {"handshake_failure",
         E_TlsNothingShared,
         -1,
         {.order = "X", .raw_type = 21, .raw = "0228"}},
        {"handshake_failure after ServerHello",
         E_TlsPeerAlert,
         -1,
         {.order = "H|1Y", .raw_type = 21, .raw = "0228"}},
        {"handshake_failure as a warning",
         E_TlsNothingShared,
         -1,
         {.order = "X", .raw_type = 21, .raw = "0128"}},
        {"unknown alert", E_TlsPeerAlert, -1, {.order = "X", .raw_type = 21, .raw = "01c8"}},
        {"close_notify before ServerHello", E_TlsClosed, 0, {.order = "A"}},
        {"close_notify inside the flight", E_TlsClosed, 0, {.order = "H|1EC|A"}},
        {"sealed internal_error",
         E_TlsPeerAlert,
         -1,
         {.order = "H|1Y", .raw_type = 21, .raw = "0250"}},
        {"certificate_required after the handshake",
         E_TlsPeerAlert,
         -1,
         {.order = TLST_GOOD "DY", .raw_type = 21, .raw = "0274"}},
    };
    check_refusals(rows, countof(rows));
}

/* One bit changed in each byte of each record of a whole connection: never accepted. A change of a
 * header's version, which nobody looks at in the clear, is the one exception, and changes
 * nothing. */
static void test_tls_refused_bits(void)
{
    static u8 wire[8000];
    const tls_plot p = {.order = TLST_GOOD "TDK|3DA"};
    plan_run(&p);
    iz n = the_peer.wire_len, hello = 5 + the_peer.wire[4];
    CHECK(!the_client.t.error && n < (iz)sizeof wire);
    copy(wire, the_peer.wire, n);
    int accepted = 0, wrong = 0;
    for (iz at = 0; at < n; at++) {
        client_start(&the_client, &p);
        wire[at] ^= (u8)(1 << at % 8);
        client_feed(&the_client, (str){wire, n});
        tls_end_of_input(&the_client.t);
        wire[at] ^= (u8)(1 << at % 8);
        b32 version =
            at == 1 || at == 2 || at == hello + 1 || at == hello + 2; /* ServerHello, CCS */
        accepted += !the_client.t.error;
        wrong += (the_client.t.error == E_None) != version;
    }
    CHECK(accepted == 4 && wrong == 0);
}

/* ---- what is accepted ---- */

typedef struct {
    const char *what, *plain;
    int updates;
    tls_plot p;
} acceptance;

static b32 tls_test_aes(void)
{
#if defined __x86_64__
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#else
    return 1; /* every aarch64 this program is for, and qemu */
#endif
}

/* Takes a ticket by a full handshake, which the plan may change; it must then be there, or not. */
static void resume_first(const tls_plot *first, b32 kept)
{
    tls_plot p = *first;
    p.tickets = 1;
    p.order = p.order ? p.order : TLST_GOOD "T|DA";
    memset(&client_ticket, 0, sizeof client_ticket);
    plan_run(&p);
    CHECK(!the_client.t.error && the_peer.offers == 0 && the_client.plain_len == 5);
    CHECK((client_ticket.len > 0) == kept);
}

#define RESUMED "H|1SEF|2"

/* A ticket is offered once, to the same host under the same root while it is valid, with any suite
 * of the same hash; the handshake then has no certificate. A server that does not take it goes on
 * as ever. */
static void test_tls_resumption(void)
{
    static const struct {
        const char *what;
        tls_plot first, second;
        i32 offers;
        b32 kept;
    } rows[] = {
        {"ChaCha20", {0}, {.resume = 1, .order = RESUMED "DA"}, 1, 1},
        {"AES-128", {.suite = 0x1301}, {.suite = 0x1301, .resume = 1, .order = RESUMED "DA"}, 1, 1},
        {"AES-256", {.suite = 0x1302}, {.suite = 0x1302, .resume = 1, .order = RESUMED "DA"}, 1, 1},
        {"another suite of the hash",
         {0},
         {.suite = 0x1301, .resume = 1, .order = RESUMED "DA"},
         1,
         1},
        {"not taken", {0}, {0}, 1, 1},
        {"not taken, another hash", {0}, {.suite = 0x1302}, 1, 1},
        {"after a retry",
         {0},
         {.retry = "R|S", .group = 0x17, .resume = 1, .order = RESUMED "DA"},
         2,
         1},
        {"after a retry with a cookie",
         {0},
         {.retry = "R|",
          .letter = 'R',
          .more = "002c00050003aabbcc",
          .resume = 1,
          .order = RESUMED "DA"},
         2,
         1},
        {"a retry to another hash", {0}, {.retry = "R|S", .group = 0x17, .suite = 0x1302}, 1, 1},
        {"a retry, not taken", {0}, {.retry = "R|S", .group = 0x17}, 2, 1},
        {"an hour and a bit later",
         {0},
         {.later = 3600123, .resume = 1, .order = RESUMED "DA"},
         1,
         1},
        {"at the end of its two hours",
         {0},
         {.later = 7199999, .resume = 1, .order = RESUMED "DA"},
         1,
         1},
        {"too late", {0}, {.later = 7200000}, 0, 1},
        {"a day before its issue", {0}, {.later = -86400000}, 0, 1},
        {"a lifetime over 7 days, at the end of these",
         {.letter = 'T', .flip = {{0, 0xff}, {1, 0xff}, {2, 0xe3}, {3, 0xdf}}},
         {.later = 7 * 86400000ll - 1, .resume = 1, .order = RESUMED "DA"},
         1,
         1},
        {"a lifetime over 7 days, after them",
         {.letter = 'T', .flip = {{0, 0xff}, {1, 0xff}, {2, 0xe3}, {3, 0xdf}}},
         {.later = 7 * 86400000ll},
         0,
         1},
        {"another host", {0}, {.by_address = 1}, 0, 1},
        {"another bundle before the root", {0}, {.bundle_more = "#\n"}, 0, 1},
        {"another hash when offered is its own",
         {.suite = 0x1302},
         {.suite = 0x1302, .resume = 1, .order = RESUMED "DA"},
         1,
         1},
        {"no lifetime", {.letter = 'T', .flip = {{2, 0x1c}, {3, 0x20}}}, {0}, 0, 1},
        {"no ticket", {.order = TLST_GOOD "DA"}, {0}, 0, 0},
        {"a nonce too long to use",
         {.order = TLST_GOOD "M|DA",
          .message = "04000053"
                     "00001c20"
                     "01020304"
                     "41"
                     "0000000000000000000000000000000000000000000000000000000000000000"
                     "000000000000000000000000000000000000000000000000000000000000000000"
                     "0005"
                     "746f6b656e"
                     "0000"},
         {0},
         0,
         0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        tls_plot p = rows[i].second;
        int before = failed;
        p.tickets = 1;
        resume_first(&rows[i].first, rows[i].kept);
        plan_run(&p);
        check_row(__LINE__, E_None, the_client.t.error, rows[i].what);
        CHECK(the_peer.offers == rows[i].offers && the_peer.finished && the_peer.alert < 0);
        CHECK(the_client.plain_len == 5 && the_client.t.resumed == p.resume);
        CHECK((the_client.t.query.path_len == 0) == p.resume);
        CHECK(client_ticket.len == 0); /* used up, and the second server gave none */
        for (iz k = 0; k < HASH_MAX; k++)
            CHECK(!the_client.t.session.psk[k]);
        if (failed > before)
            fprintf(stderr, "  in: %s\n", rows[i].what);
    }
}

/* A chain of resumptions: each gives the ticket for the next, bound as the first was. */
static void test_tls_resumption_chain(void)
{
    tls_plot p = {.tickets = 1, .resume = 1, .order = RESUMED "T|DA"};
    resume_first(&(tls_plot){0}, 1);
    i64 chain_until = client_ticket.chain_until;
    for (int i = 1; i < 5; i++) {
        p.later = 0;
        plan_run(&p);
        CHECK(!the_client.t.error && the_client.t.resumed && the_peer.offers == 1);
        CHECK(client_ticket.len == 5 && client_ticket.chain_until == chain_until);
    }
    client_ticket.chain_until = (PEER_NOW - 1) * 1000ll; /* as if the certificates had expired */
    client_ticket.until = client_ticket.chain_until;
    p = (tls_plot){.tickets = 1};
    plan_run(&p);
    CHECK(!the_client.t.error && the_peer.offers == 0);
}

/* The root must still be whole at its place: an edit that keeps its length undoes the ticket. */
static void test_tls_resumption_root(void)
{
    static char spoiled[sizeof peer_root];
    static const iz places[] = {0, 60, 300, -3, -40};
    for (iz i = 0; i < countof(places); i++) {
        iz n = (iz)sizeof peer_root - 1;
        tls_plot p = {.tickets = 1, .resume = 0, .order = "H|1SEC|", .roots = spoiled};
        memcpy(spoiled, peer_root, sizeof peer_root);
        spoiled[places[i] < 0 ? n + places[i] : places[i]] = '#';
        resume_first(&(tls_plot){0}, 1);
        plan_run(&p);
        CHECK(the_client.t.error == E_CertIssuerUnknown && the_peer.offers == 0);
    }
}

/* No ticket outlives the certificates that were shown, nor an error; nothing that was decrypted
 * outlives the connection. */
static void test_tls_resumption_ends(void)
{
    tls_plot p = {.tickets = 1, .order = TLST_GOOD};
    memset(&client_ticket, 0, sizeof client_ticket);
    plan_run(&p);
    CHECK(the_client.t.session.chain_until == 4102444799000ll); /* 2099-12-31T23:59:59Z */
    the_client.t.session.chain_until = PEER_NOW * 1000ll + 5000;
    the_peer.wire_len = 0;
    peer_run(&the_peer, "T|");
    client_feed(&the_client, (str){the_peer.wire, the_peer.wire_len});
    CHECK(client_ticket.len && client_ticket.until == PEER_NOW * 1000ll + 5000);
    the_peer.wire_len = 0;
    peer_run(&the_peer, "D");
    iz room;
    copy(tls_input_room(&the_client.t, &room), the_peer.wire, the_peer.wire_len);
    tls_input(&the_client.t, the_peer.wire_len);
    CHECK(tls_plain(&the_client.t).len == 5);
    tls_close(&the_client.t);
    CHECK(!memmem(the_client.t.in, sizeof the_client.t.in, "hello", 5) && client_ticket.len);

    p = (tls_plot){.tickets = 1,
                   .order = TLST_GOOD "T|X",
                   .raw_type = 23,
                   .raw = "00112233445566778899aabbccddeeff001122"};
    plan_run(&p);
    CHECK(the_client.t.error == E_AeadTag && client_ticket.len == 0);
}

/* Beside a Certificate message of the largest size there is no room for another: its header is
 * looked at and no more of it kept. */
static void test_tls_largest_certificate(void)
{
    static char body[2 * TLS_MESSAGE_MAX + 1];
    for (iz size = TLS_MESSAGE_MAX - 5; size <= TLS_MESSAGE_MAX; size++) {
        u8 leaf[600], head[12];
        iz n = tls_unhex(peer_leaf, leaf), stray = size - 4 - 4 - (3 + n + 2) - (3 + 2);
        writer w = writer_of(head, countof(head));
        put_be(&w, (u64)size - 8, 4); /* no context; the list */
        put_be(&w, (u64)n, 3);
        hex_write(body, head, w.len);
        hex_write(body + strlen(body), leaf, n);
        w.len = 0;
        put_be(&w, (u64)stray, 5); /* no extensions; the stray */
        hex_write(body + strlen(body), head, w.len);
        iz at = (iz)strlen(body);
        memset(body + at, '5', (size_t)(2 * stray));
        strcpy(body + at + 2 * stray, "0000");
        tls_plot p = {.order = "H|1SECM|", .letter = 'C', .body = body, .message = "0f000041"};
        plan_run(&p);
        CHECK(the_client.t.error == E_TlsMessageSize && the_peer.alert == 47);
        CHECK(the_client.t.kept == size);
    }
}

/* What a server may not do with a ticket, with the alert. */
static void test_tls_resumption_refused(void)
{
    static const struct {
        const char *what;
        err error;
        int alert;
        b32 offer;
        tls_plot p;
    } rows[] = {
        {"taken though not offered",
         E_TlsExtensionUnasked,
         110,
         0,
         {.resume = 1, .order = RESUMED}},
        {"the second of one",
         E_TlsTicket,
         47,
         1,
         {.resume = 1, .order = "H|", .letter = 'H', .cut = 6, .more = "002900020001"}},
        {"a suite of another hash",
         E_TlsTicket,
         47,
         1,
         {.resume = 1, .suite = 0x1302, .order = "H|"}},
        {"a longer answer",
         E_TlsMessageForm,
         50,
         1,
         {.resume = 1, .order = "H|", .letter = 'H', .cut = 6, .more = "0029000300000000"}},
        {"an answer of a byte",
         E_TlsMessageForm,
         50,
         1,
         {.resume = 1, .order = "H|", .letter = 'H', .cut = 6, .more = "0029000100"}},
        {"twice",
         E_TlsExtensionTwice,
         47,
         1,
         {.resume = 1, .order = "H|", .letter = 'H', .more = "002900020000"}},
        {"in EncryptedExtensions",
         E_TlsExtensionPlace,
         47,
         1,
         {.order = "H|1SE|", .letter = 'E', .more = "002900020000"}},
        {"in HelloRetryRequest",
         E_TlsExtensionPlace,
         47,
         1,
         {.retry = "R|", .order = "", .group = 0x17, .letter = 'R', .more = "002900020000"}},
        {"taken, with a certificate all the same",
         E_TlsMessageOrder,
         10,
         1,
         {.resume = 1, .order = "H|1SEC|"}},
        {"taken, with a certificate asked for",
         E_TlsMessageOrder,
         10,
         1,
         {.resume = 1, .order = "H|1SEQ|"}},
        {"taken, with a wrong Finished",
         E_TlsFinished,
         51,
         1,
         {.resume = 1, .order = "H|1SEF|", .letter = 'F', .flip = {{0, 1}}}},
        {"taken without a key share",
         E_TlsExtensionMissing,
         47,
         1,
         {.resume = 1, .order = "H|", .letter = 'H', .cut = 46, .more = "002900020000"}},
        {"not taken, and no certificate", E_TlsMessageOrder, 10, 1, {.order = "H|1SEF|"}},
    };
    for (iz i = 0; i < countof(rows); i++) {
        tls_plot p = rows[i].p;
        int before = failed;
        resume_first(&(tls_plot){0}, 1);
        p.tickets = rows[i].offer;
        plan_run(&p);
        check_row(__LINE__, rows[i].error, the_client.t.error, rows[i].what);
        CHECK(the_peer.alert == rows[i].alert && !the_peer.finished);
        for (iz k = 0; k < HASH_MAX; k++)
            CHECK(!the_client.t.session.psk[k]);
        if (failed > before)
            fprintf(stderr, "  in: %s, alert %d\n", rows[i].what, the_peer.alert);
    }
}

/* RFC 8448, section 4: from the resumption PSK to the binder, whose transcript hash is given. */
static void test_tls_rfc8448_binder(void)
{
    tls *t = &the_client.t;
    u8 out[HASH_MAX];
    memset(t, 0, sizeof *t);
    t->hash = SHA256;
    tls_unhex("4ecd0eb6ec3b4d87f5d6028f922ca4c5851a277fd41311c9e62d2c9492e1c4f3", t->session.psk);
    tls_binder_key(t);
    CHECK(
        hex_is(t->secret, 32, "9b2188e9b2fc6d64d71dc329900e20bb41915000f678aa839cbb797cb7d8332c"));
    CHECK(hex_is(t->send.secret, 32,
                 "69fe131a3bbad5d63c64eebcc30e395b9d8107726a13d074e389dbc8a4e47256"));
    tls_unhex("63224b2e4573f2d3454ca84b9d009a04f6be9e05711a8396473aefa01e924a14", t->digest);
    tls_verify_data(t, &t->send, out);
    CHECK(hex_is(out, 32, "3add4fb2d8fdf822a0ca3cf7678ef5e88dae990141c5924d57bb6fa31b9e5f9d"));
}

static void test_tls_accepted(void)
{
    static const acceptance rows[] = {
        {"plain", "hello", 0, {0}},
        {"AES-128-GCM", "hello", 0, {.suite = 0x1301}},
        {"AES-256-GCM with SHA-384", "hello", 0, {.suite = 0x1302}},
        {"AES not offered", "hello", 0, {.no_aes = 1}},
        {"an IP address", "hello", 0, {.by_address = 1}},
        {"no CCS", "hello", 0, {.order = "H|1ECVF|2DA"}},
        {"4 CCS wherever they may", "hello", 0, {.order = "SH|1SE|SCV|SF|2DA"}},
        {"a record a message", "hello", 0, {.order = "H|1SE|C|V|F|2DA"}},
        {"CertificateRequest", "hello", 0, {.order = "H|1SEQCVF|2DA"}},
        {"CertificateRequest, AES-256", "hello", 0, {.order = "H|1SEQCVF|2DA", .suite = 0x1302}},
        {"CertificateRequest with all there is",
         "hello",
         0,
         {.order = "H|1SEQCVF|2DA",
          .letter = 'Q',
          .more = "0005000012120000002f00020000003200040002040300300002000000120000"}},
        {"HelloRetryRequest, P-256", "hello", 0, {.retry = "R|S", .group = 0x17}},
        {"the same with SHA-384", "hello", 0, {.retry = "R|S", .group = 0x17, .suite = 0x1302}},
        {"the same with a cookie",
         "hello",
         0,
         {.retry = "R|S", .group = 0x17, .letter = 'R', .more = "002c00050003aabbcc"}},
        {"HelloRetryRequest, cookie only",
         "hello",
         0,
         {.retry = "R|", .letter = 'R', .more = "002c00050003aabbcc"}},
        {"HelloRetryRequest and CertificateRequest",
         "hello",
         0,
         {.retry = "SR|S", .group = 0x17, .order = "H|1SEQCVF|2DA"}},
        {"EncryptedExtensions with all there may be",
         "hello",
         0,
         {.letter = 'E',
          .more = "00000000"
                  "000a00060004001d0018"
                  "0010000b000908687474702f312e31"}},
        {"records of 1 byte", "hello", 0, {.fragment = 1}},
        {"records of 3 bytes, retried", "hello", 0, {.fragment = 3, .retry = "R|S", .group = 0x17}},
        {"records of 100 bytes, padded", "hello", 0, {.fragment = 100, .padding = 500}},
        {"padded to the brim",
         "hellohello",
         0,
         {.padding = 16355, .order = "H|1SE|C|V|F|2DDA", .fragment = 29}},
        {"tickets", "hellohello", 0, {.order = TLST_GOOD "TT|DTTT|DTT|A"}},
        {"ticket in three records", "hello", 0, {.order = TLST_GOOD "T|DA", .fragment = 11}},
        {"ticket with early_data and unknown",
         "hello",
         0,
         {.order = TLST_GOOD "T|DA", .letter = 'T', .more = "002a000400004000fafa000100"}},
        {"32 tickets, then again",
         "hellohello",
         0,
         {.order =
              TLST_GOOD "TTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT|DTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT|DA"}},
        {"KeyUpdate", "hellohello", 0, {.order = TLST_GOOD "DK|3DK|3A"}},
        {"KeyUpdate asking", "hellohello", 2, {.order = TLST_GOOD "Dk|3Dk|3A"}},
        {"KeyUpdate asking, AES-256",
         "hellohello",
         1,
         {.order = TLST_GOOD "Dk|3DA", .suite = 0x1302}},
        {"KeyUpdate in 2 records", "hello", 1, {.order = TLST_GOOD "k/|3DA"}},
        {"16 KeyUpdates asking at once",
         "hello",
         1,
         {.order = TLST_GOOD "k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3k|3DA"}},
        {"empty records",
         "hellohello",
         0,
         {.order = TLST_GOOD "ddddddddddddddddDddddddddddddddddDA"}},
        {"user_canceled", "hello", 0, {.order = TLST_GOOD "WDWA"}},
        {"user_canceled before the flight", "hello", 0, {.order = "H|1WECVF|2DA"}},
        {"data behind close_notify", "hello", 0, {.order = TLST_GOOD "DAD"}},
        {"rubbish behind close_notify",
         "hello",
         0,
         {.order = TLST_GOOD "DAX", .raw_type = 99, .raw = "00"}},
        {"an empty connection", "", 0, {.order = TLST_GOOD "A"}},
    };
    for (iz i = 0; i < countof(rows); i++) {
        const acceptance *a = &rows[i];
        if (a->p.suite && !tls_test_aes()) {
            skipped++;
            continue;
        }
        plan_run(&a->p);
        const tls *t = &the_client.t;
        str plain = {the_client.plain, the_client.plain_len};
        b32 good = !t->error && tls_closed(t) && tls_ready(t) && the_peer.finished &&
                   str_eq(plain, (str){(const u8 *)a->plain, (iz)strlen(a->plain)}) &&
                   the_peer.alert < 0 && the_peer.updates == a->updates &&
                   the_peer.hellos == 1 + !!a->p.retry && the_peer.ccs_count == 1 &&
                   the_peer.shown_one == !!(a->p.order && strchr(a->p.order, 'Q'));
        if (!good)
            fprintf(stderr, "%s: %s, alert %d, %d plain, %d updates\n", a->what,
                    unit_error(t->error), the_peer.alert, (int)plain.len, the_peer.updates);
        CHECK(good);
        tls_entropy nothing = {0};
        CHECK(!memcmp(&t->entropy, &nothing, sizeof nothing));
        u8 zeros[HASH_MAX] = {0};
        CHECK(!memcmp(t->secret, zeros, HASH_MAX));
    }
}

/* The largest records: 2^14 bytes of content, with no padding and with as much as fits. */
static void test_tls_largest_records(void)
{
    static const tls_plot full = {
        .order = TLST_GOOD "YYA", .raw_type = 23, .raw_len = 16384, .raw_fill = 7};
    plan_run(&full);
    CHECK(!the_client.t.error && the_client.plain_len == 2 * 16384 && tls_closed(&the_client.t));
    static const tls_plot padded = {
        .order = TLST_GOOD "YA", .raw_bare = 1, .raw = "aa17", .raw_zeros = 16383};
    plan_run(&padded);
    CHECK(!the_client.t.error && the_client.plain_len == 1 && tls_closed(&the_client.t));
}

/* Certificates of one byte, and 32 of them: what section 7 finds wrong with them is its affair. */
static void test_tls_certificate_rubbish(void)
{
    static char many[2000] = "000000c0";
    for (int i = 0; i < 32; i++)
        strcat(many, "000001300000");
    const tls_plot rows[] = {{.letter = 'C',
                              .body = "00"
                                      "000006"
                                      "000001300000"},
                             {.letter = 'C', .body = many}};
    for (int i = 0; i < 2; i++) {
        plan_run(&rows[i]);
        CHECK(the_client.t.error > 0 && the_client.t.error != E_TlsCertificateCount);
        CHECK(the_peer.alert == 42);
    }
}

/* ---- the wire split ---- */

/* The same bytes from the server, in pieces: the same bytes from the client and to its user. */
static void check_splits(const tls_plot *p)
{
    static u8 first[3000], wire[8000], sent[40000], plain[200000];
    peer *s = &the_peer;
    tls_user *c = &the_client;
    iz first_len = 0;
    plan_run(p);
    iz n = s->wire_len, sent_len = c->sent_len, plain_len = c->plain_len;
    CHECK(!c->t.error && tls_closed(&c->t));
    copy(wire, s->wire, n);
    copy(sent, c->sent, sent_len);
    copy(plain, c->plain, plain_len);
    if (p->retry) {
        peer_start(s, p);
        client_start(c, p);
        peer_read(s, (str){c->sent, c->sent_len});
        peer_run(s, p->retry);
        first_len = s->wire_len;
        copy(first, s->wire, first_len);
    }
    int good = 0;
    for (iz at = -1; at < first_len + n; at++) { /* -1: each byte alone */
        client_start(c, p);
        for (iz i = 0; i < 2; i++) {
            str part = i ? (str){wire, n} : (str){first, first_len};
            iz cut = at - i * first_len;
            if (at < 0)
                for (iz k = 0; k < part.len; k++)
                    client_feed(c, str_span(part, k, k + 1));
            else if (0 <= cut && cut <= part.len) {
                client_feed(c, str_span(part, 0, cut));
                client_feed(c, str_span(part, cut, part.len));
            } else
                client_feed(c, part);
        }
        good += !c->t.error && tls_closed(&c->t) && c->sent_len == sent_len &&
                c->plain_len == plain_len && !memcmp(c->sent, sent, (size_t)sent_len) &&
                !memcmp(c->plain, plain, (size_t)plain_len);
    }
    CHECK(good == first_len + n + 1);
}

static void test_tls_splits(void)
{
    static const tls_plot simple = {.order = "H|1SEQCVF|2TD|K|3DA"};
    static const tls_plot retried = {.retry = "R|S", .group = 0x17, .order = "H|1ECV|F|2DA"};
    check_splits(&simple);
    check_splits(&retried);
}

/* The wire cut at every byte: E_TlsTruncated, except behind close_notify. */
static void test_tls_truncation(void)
{
    static u8 wire[8000];
    const tls_plot p = {.order = TLST_GOOD "TDDA"};
    plan_run(&p);
    iz n = the_peer.wire_len;
    copy(wire, the_peer.wire, n);
    int good = 0;
    for (iz at = 0; at < n; at++) {
        client_start(&the_client, &p);
        client_feed(&the_client, (str){wire, at});
        tls_end_of_input(&the_client.t);
        good += the_client.t.error == E_TlsTruncated;
        iz room;
        tls_input_room(&the_client.t, &room);
        good -= room != 0;
    }
    CHECK(good == n);
    client_start(&the_client, &p);
    client_feed(&the_client, (str){wire, n});
    tls_end_of_input(&the_client.t);
    CHECK(!the_client.t.error && tls_closed(&the_client.t));
    /* The end is reported while data and close_notify still wait behind other data. */
    client_start(&the_client, &p);
    tls *t = &the_client.t;
    iz room;
    u8 *at = tls_input_room(t, &room);
    CHECK(room >= n);
    copy(at, wire, n);
    tls_input(t, n);
    CHECK(tls_plain(t).len == 5 && !tls_closed(t));
    tls_input_room(t, &room);
    CHECK(room == 0);
    tls_end_of_input(t);
    CHECK(!t->error);
    tls_consume(t, 2);
    CHECK(tls_plain(t).len == 3 && !tls_closed(t));
    tls_consume(t, 3);
    CHECK(tls_plain(t).len == 5);
    tls_consume(t, 5);
    CHECK(!t->error && tls_closed(t));
}

/* ---- the client's own bytes ---- */

static void test_tls_client_hello(void)
{
    u8 share[32];
    tls_user *c = &the_client;
    tls_plot p = {0};
    for (int by_address = 0; by_address < 2; by_address++)
        for (int aes = 0; aes < 2; aes++) {
            p.by_address = by_address;
            p.no_aes = !aes;
            client_start(c, &p);
            u8 buf[600];
            writer w = writer_of(buf, (iz)sizeof buf);
            int n = 177 + (aes ? 4 : 0) + (by_address ? 0 : 21);
            put(&w, S("\x16\3\1\0"));
            put_byte(&w, (u8)(n + 4));
            put(&w, S("\1\0\0"));
            put_byte(&w, (u8)n);
            put(&w, S("\3\3"));
            put(&w, (str){client_entropy.random, 32});
            put_byte(&w, 32);
            put(&w, (str){client_entropy.session_id, 32});
            put(&w, aes ? S("\0\6\x13\1\x13\3\x13\2") : S("\0\2\x13\3"));
            put(&w, S("\1\0\0"));
            put_byte(&w, (u8)(n - 73 - (aes ? 6 : 2)));
            if (!by_address)
                put(&w, S("\0\0\0\x11\0\x0f\0\0\x0ctest.example"));
            put(&w, S("\0\x0a\0\6\0\4\0\x1d\0\x17"));
            put(&w, S("\0\x0d\0\x12\0\x10\4\3\5\3\x08\4\x08\5\x08\6\4\1\5\1\6\1"));
            put(&w, S("\0\x10\0\x0b\0\x09\x08http/1.1\0\x2b\0\3\2\3\4\0\x2d\0\2\1\1"));
            put(&w, S("\0\x33\0\x26\0\x24\0\x1d\0\x20"));
            x25519_public(share, client_entropy.x25519_secret);
            put(&w, (str){share, 32});
            CHECK(str_eq(written(&w), (str){c->sent, c->sent_len}));
        }
}

/* The second ClientHello is the first but for key_share and cookie (section 4.1.2). */
static void test_tls_second_hello(void)
{
    static tls_plot p = {.retry = "R|", .group = 0x17, .letter = 'R', .more = "002c00050003aabbcc"};
    plan_run(&p);
    tls_user *c = &the_client;
    iz first = 5 + ((iz)c->sent[3] << 8 | c->sent[4]);
    CHECK(!memcmp(c->sent + first, "\x14\3\3\0\1\1\x16\3\3", 9));
    const u8 *one = c->sent + 9, *two = c->sent + first + 6 + 9;
    iz extensions = 2 + 32 + 33 + 8 + 2;
    CHECK(!memcmp(one, two, (size_t)extensions));
    iz same = first - 9 - extensions - 2 - 42;
    CHECK(!memcmp(one + extensions + 2, two + extensions + 2, (size_t)same));
    CHECK(!memcmp(two + extensions + 2 + same, "\0\x2c\0\5\0\3\xaa\xbb\xcc", 9));
    CHECK(!memcmp(two + extensions + 2 + same + 9, "\0\x33\0\x47\0\x45\0\x17\0\x41\4", 11));
}

/* Cookies up to what the output buffer holds, and one more byte. */
static void test_tls_cookie_limit(void)
{
    static char more[40000];
    static const struct {
        iz len;
        err error;
    } rows[] = {{1, 0}, {255, 0}, {256, 0}, {4096, 0}, {7000, 0}, {7900, E_BufferFull}};
    for (iz i = 0; i < countof(rows); i++) {
        iz n = rows[i].len;
        sprintf(more, "002c%04x%04x", (unsigned)n + 2, (unsigned)n);
        memset(more + 12, 'a', (size_t)(2 * n));
        more[12 + 2 * n] = 0;
        tls_plot p = {.retry = "R|", .letter = 'R', .more = more};
        plan_run(&p);
        CHECK(the_client.t.error == rows[i].error);
        CHECK(the_peer.alert == (rows[i].error ? 80 : -1));
    }
}

/* Data of every length around the buffer's limits arrives whole and in order; nothing goes before
 * the handshake is done or after the end. */
static void test_tls_write(void)
{
    static u8 data[20000];
    for (iz i = 0; i < (iz)sizeof data; i++)
        data[i] = (u8)(i * 7);
    tls_plot p = {.order = TLST_GOOD};
    tls_user *c = &the_client;
    client_start(c, &p);
    CHECK(tls_write(&c->t, S("early")) == 0);
    plan_run(&p);
    CHECK(tls_ready(&c->t) && !tls_closed(&c->t) && tls_write(&c->t, S("")) == 0);
    iz total = 0;
    static const iz lengths[] = {1, 2, 100, 7000, 7900, 7914, 7915, 8192, 9000, 16000};
    for (iz i = 0; i < countof(lengths); i++)
        for (iz at = 0; at < lengths[i];) {
            iz n = tls_write(&c->t, (str){data + at, lengths[i] - at});
            CHECK(n >= 0);
            at += n;
            total += n;
            if (!n)
                client_take(c);
        }
    client_take(c);
    peer_read(&the_peer, (str){c->sent, c->sent_len});
    CHECK(0 < total && total == the_peer.data_len && the_peer.alert < 0);
    iz at = 0;
    for (iz i = 0; i < countof(lengths); i++) {
        CHECK(!memcmp(the_peer.data + at, data, (size_t)lengths[i]));
        at += lengths[i];
    }
    tls_close(&c->t);
    CHECK(tls_write(&c->t, S("late")) == 0 && c->t.state == TLS_ENDED && !c->t.error);
    tls_close(&c->t);
    tls_end_of_input(&c->t);
    client_take(c);
    peer_read(&the_peer, (str){c->sent, c->sent_len});
    CHECK(the_peer.alert == 0 && !c->t.error);
    tls_keys none = {0};
    CHECK(!memcmp(&c->t.send, &none, sizeof none) && !memcmp(&c->t.receive, &none, sizeof none));
    /* after the server's close_notify one may still write */
    p.order = TLST_GOOD "A";
    plan_run(&p);
    CHECK(tls_closed(&c->t) && tls_write(&c->t, S("bye")) == 3);
    client_take(c);
    peer_read(&the_peer, (str){c->sent, c->sent_len});
    CHECK(the_peer.data_len == 3);
}

/* The request goes out with the Finished: one write. An output that nobody drains still takes the
 * alert and never overflows; an owed KeyUpdate waits for room, and all that were asked for
 * meanwhile are answered by one. */
static void test_tls_full_output(void)
{
    tls_plot p = {.order = TLST_GOOD};
    static u8 data[9000];
    tls_user *c = &the_client;
    peer *s = &the_peer;
    plan_run(&p);
    iz n = tls_write(&c->t, (str){data, 9000});
    CHECK(n > 7000 && tls_write(&c->t, (str){data, 9000}) == 0);
    s->wire_len = 0;
    peer_run(s, "k|3k|3Dk|3k|3D");
    iz room;
    u8 *at = tls_input_room(&c->t, &room);
    copy(at, s->wire, s->wire_len);
    tls_input(&c->t, s->wire_len);
    CHECK(tls_plain(&c->t).len == 5 && !c->t.update_owed && !c->t.error);
    tls_consume(&c->t, 5);
    CHECK(tls_plain(&c->t).len == 5 && c->t.update_owed && !c->t.error);
    tls_consume(&c->t, 5);
    CHECK(tls_write(&c->t, S("x")) == 0);
    client_take(c);
    CHECK(!c->t.update_owed && tls_write(&c->t, S("x")) == 1);
    client_take(c);
    peer_read(s, (str){c->sent, c->sent_len});
    CHECK(s->updates == 2 && s->data_len == n + 1);
    /* a full buffer and then an error */
    CHECK(tls_write(&c->t, (str){data, 9000}) == n);
    s->wire_len = 0;
    peer_run(s, "S");
    at = tls_input_room(&c->t, &room);
    copy(at, s->wire, s->wire_len);
    tls_input(&c->t, s->wire_len);
    CHECK(c->t.error == E_TlsChangeCipherSpec);
    client_take(c);
    peer_read(s, (str){c->sent, c->sent_len});
    CHECK(s->alert == 10 && s->data_len == 2 * n + 1);
}

/* Records under one key are counted: ours lead to a KeyUpdate, theirs to an end. */
static void test_tls_record_count(void)
{
    tls_plot p = {.order = TLST_GOOD};
    tls_user *c = &the_client;
    peer *s = &the_peer;
    plan_run(&p);
    c->t.send.sequence = s->in.sequence = TLS_RECORDS - 2;
    for (int i = 0; i < 5; i++) {
        CHECK(tls_write(&c->t, S("a")) == 1);
        client_take(c);
    }
    peer_read(s, (str){c->sent, c->sent_len});
    CHECK(s->updates == 1 && s->data_len == 5 && s->alert < 0);
    for (int i = 0; i < 2; i++) {
        plan_run(&p);
        c->t.receive.sequence = s->out.sequence = TLS_RECORDS - 1;
        s->wire_len = 0;
        peer_run(s, i ? "DD" : "DA");
        client_feed(c, (str){s->wire, s->wire_len});
        CHECK(c->plain_len == 5 && c->t.error == E_TlsRecordCount);
    }
}

/* The chain is judged for the name, the time and the roots that were given, with the right
 * alert. */
static void test_tls_certificate_errors(void)
{
    static const struct {
        const char *host, *bundle;
        i64 now;
        err error;
        int alert;
    } rows[] = {
        {"test.example", peer_root, PEER_NOW, E_None, -1},
        {"127.0.0.1", peer_root, PEER_NOW, E_None, -1},
        {"TEST.example", peer_root, PEER_NOW, E_None, -1},
        {"other.example", peer_root, PEER_NOW, E_CertNameMismatch, 42},
        {"127.0.0.2", peer_root, PEER_NOW, E_CertNameMismatch, 42},
        {"test.example", peer_root, 1500000000, E_CertNotYetValid, 45},
        {"test.example", peer_root, 5000000000, E_CertExpired, 45},
        {"test.example", "", PEER_NOW, E_CertIssuerUnknown, 48},
    };
    for (iz i = 0; i < countof(rows); i++) {
        tls_plot p = {.order = TLST_GOOD "A"};
        peer_start(&the_peer, &p);
        tls_user *c = &the_client;
        memset(c, 0, sizeof *c);
        str host = {(const u8 *)rows[i].host, (iz)strlen(rows[i].host)};
        str bundle = {(const u8 *)rows[i].bundle, (iz)strlen(rows[i].bundle)};
        tls_start(&c->t, host, &client_entropy, rows[i].now * 1000ll, 1, bundle, 0);
        client_take(c);
        peer_read(&the_peer, (str){c->sent, c->sent_len});
        peer_run(&the_peer, p.order);
        client_feed(c, (str){the_peer.wire, the_peer.wire_len});
        peer_read(&the_peer, (str){c->sent, c->sent_len});
        CHECK(c->t.error == rows[i].error && the_peer.alert == rows[i].alert);
    }
}

/* RFC 8448: messages, and records with their headers, of sections 3 and 5. */
static const char trace3_client_hello[] =
    "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302"
    "010000910000000b0009000006736572766572ff01000100000a00140012001d001700180019010001010102010301"
    "0400230000003300260024001d002099381de560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c"
    "002b0003020304000d0020001e040305030603020308040805080604010501060102010402050206020202002d0002"
    "0101001c00024001";

static const char trace3_server_hello[] =
    "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e003300"
    "24001d0020c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304";

static const char trace3_encrypted_extensions[] =
    "080000240022000a00140012001d00170018001901000101010201030104001c0002400100000000";

static const char trace3_certificate[] =
    "0b0001b9000001b50001b0308201ac30820115a003020102020102300d06092a864886f70d01010b0500300e310c30"
    "0a06035504031303727361301e170d3136303733303031323335395a170d3236303733303031323335395a300e310c"
    "300a0603550403130372736130819f300d06092a864886f70d010101050003818d0030818902818100b4bb498f8279"
    "303d980836399b36c6988c0c68de55e1bdb826d3901a2461eafd2de49a91d015abbc9a95137ace6c1af19eaa6af98c"
    "7ced43120998e187a80ee0ccb0524b1b018c3e0b63264d449a6d38e22a5fda430846748030530ef0461c8ca9d9efbf"
    "ae8ea6d1d03e2bd193eff0ab9a8002c47428a6d35a8d88d79f7f1e3f0203010001a31a301830090603551d13040230"
    "00300b0603551d0f0404030205a0300d06092a864886f70d01010b05000381810085aad2a0e5b9276b908c65f73a72"
    "67170618a54c5f8a7b337d2df7a594365417f2eae8f8a58c8f8172f9319cf36b7fd6c55b80f21a03015156726096fd"
    "335e5e67f2dbf102702e608ccae6bec1fc63a42a99be5c3eb7107c3c54e9b9eb2bd5203b1c3b84e0a8b2f759409ba3"
    "eac9d91d402dcc0cc8f8961229ac9187b42b4de10000";

static const char trace3_certificate_verify[] =
    "0f000084080400805a747c5d88fa9bd2e55ab085a61015b7211f824cd484145ab3ff52f1fda8477b0b7abc90db78e2"
    "d33a5c141a078653fa6bef780c5ea248eeaaa785c4f394cab6d30bbe8d4859ee511f602957b15411ac027671459e46"
    "445c9ea58c181e818e95b8c3fb0bf3278409d3be152a3da5043e063dda65cdf5aea20d53dfacd42f74f3";

static const char trace3_finished[] =
    "140000209b9b141d906337fbd2cbdce71df4deda4ab42c309572cb7fffee5454b78f0718";

static const char trace3_client_flight[] =
    "170303003575ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f80338ac98fc46deb384bd"
    "1caeacab6867d726c40546";

static const char trace3_ticket_record[] =
    "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db28"
    "9a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f"
    "75e09c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db"
    "2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe51"
    "37121c74bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f";

static const char trace3_client_data[] =
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e"
    "2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";

static const char trace3_client_alert[] = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";

static const char trace3_server_data[] =
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59"
    "a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";

static const char trace3_server_alert[] = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

static const char trace3_server_flight[] =
    "17030302a2d1ff334a56f5bff6594a07cc87b580233f500f45e489e7f33af35edf7869fcf40aa40aa2b8ea73f848a7"
    "ca07612ef9f945cb960b4068905123ea78b111b429ba9191cd05d2a389280f526134aadc7fc78c4b729df828b5ecf7"
    "b13bd9aefb0e57f271585b8ea9bb355c7c79020716cfb9b1183ef3ab20e37d57a6b9d7477609aee6e122a4cf514273"
    "25250c7d0e509289444c9b3a648f1d71035d2ed65b0e3cdd0cbae8bf2d0b227812cbb360987255cc744110c453baa4"
    "fcd610928d809810e4b7ed1a8fd991f06aa6248204797e36a6a73b70a2559c09ead686945ba246ab66e5edd8044b4c"
    "6de3fcf2a89441ac66272fd8fb330ef8190579b3684596c960bd596eea520a56a8d650f563aad27409960dca63d3e6"
    "88611ea5e22f4415cf9538d51a200c27034272968a264ed6540c84838d89f72c24461aad6d26f59ecaba9acbbb317b"
    "66d902f4f292a36ac1b639c637ce343117b659622245317b49eeda0c6258f100d7d961ffb138647e92ea330faeea6d"
    "fa31c7a84dc3bd7e1b7a6c7178af36879018e3f252107f243d243dc7339d5684c8b0378bf30244da8c87c843f5e56e"
    "b4c5e8280a2b48052cf93b16499a66db7cca71e4599426f7d461e66f99882bd89fc50800becca62d6c74116dbd2972"
    "fda1fa80f85df881edbe5a37668936b335583b599186dc5c6918a396fa48a181d6b6fa4f9d62d513afbb992f2b992f"
    "67f8afe67f76913fa388cb5630c8ca01e0c65d11c66a1e2ac4c85977b7c7a6999bbf10dc35ae69f5515614636c0b9b"
    "68c19ed2e31c0b3b66763038ebba42f3b38edc0399f3a9f23faa63978c317fc9fa66a73f60f0504de93b5b845e2755"
    "92c12335ee340bbc4fddd502784016e4b3be7ef04dda49f4b440a30cb5d2af939828fd4ae3794e44f94df5a631ede4"
    "2c1719bfdabf0253fe5175be898e750edc53370d2b";

static const char trace5_client_hello_1[] =
    "010000b00303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f000006130113031302"
    "010000810000000b0009000006736572766572ff01000100000a00080006001d00170018003300260024001d0020e8"
    "e8e3f3b93a25ed97a14a7dcacb8a272c6288e585c6484d05262fcad062ad1f002b0003020304000d0020001e040305"
    "030603020308040805080604010501060102010402050206020202002d00020101001c00024001";

static const char trace5_retry_request[] =
    "020000ac0303cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c001301000084003300"
    "020017002c0074007271dcd04bb88bc3189119398a00000000eefafc76c146b823b096f8aacad365dd0030953f4edf"
    "625636e5f21bb2e23fcc654b1b5b40318d10d137abcbb87574e36e8a1f025f7dfa5d6e50781b5eda4aa15b0c8be778"
    "257d16aa3030e9e7841dd9e4c0342267e8ca0caf571fb2b7cff0f934b0002b00020304";

static const char trace5_client_hello_2[] =
    "010001fc0303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f000006130113031302"
    "010001cd0000000b0009000006736572766572ff01000100000a00080006001d001700180033004700450017004104"
    "a6da7392ec591e17abfd535964b99894d13befb221b3def2ebe3830eac8f0151812677c4d6d2237e85cf01d6910cfb"
    "83954e76ba7352830534159897e8065780002b0003020304000d0020001e0403050306030203080408050806040105"
    "01060102010402050206020202002c0074007271dcd04bb88bc3189119398a00000000eefafc76c146b823b096f8aa"
    "cad365dd0030953f4edf625636e5f21bb2e23fcc654b1b5b40318d10d137abcbb87574e36e8a1f025f7dfa5d6e5078"
    "1b5eda4aa15b0c8be778257d16aa3030e9e7841dd9e4c0342267e8ca0caf571fb2b7cff0f934b0002d00020101001c"
    "00024001001500af000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

static const char trace5_server_hello[] =
    "020000770303bb341d847fd789c47c387172dc0c9bf147fccacb5043d86ca4c598d3ff571b9800130100004f003300"
    "450017004104583e054b7a66672ae020ad9d2686fcc85b5ad41a134a0f03ee72b893052bd85b4c8de6776f5b04ac07"
    "d83540eab3e3d9c547bc6528c4317d294686093a6cad7d002b00020304";

static const char trace5_server_flight[] =
    "170303029699bee20baf5b7fc727bfab6223928a381e6d0cf9c4da653f9d2a7b23f7de11cce842d5cf75631763450f"
    "fb8b0cc1d238e658af7a12adc86243114ab14a1da2fae42621ce483fb6242eabfaad52566b02b31d2eddedefeb80e6"
    "6a9900d5f973b40c4fdf74719ecf1b68d7f9c3b6ceb903ca13dd1bb8f8187ae33417e1d152522c5822a1a03ad52c83"
    "8c55953d610222874cce8e1790b229a2aa0b53c8d377ee720182951dc6181dc5d90bd1f0105ed1e84aa5f75957c666"
    "1897079e5ea5007449e3197bdc7c9beeedddeafdd844afa5c315ecfe65e576afe909812880620ec7048b42d7f5c78d"
    "76f299d6d82534bdd8f512febc0ed3814aca470cd8000d3e1cb9962b052fbb950df683a52c2ba77ed3713b122937a6"
    "e5170964e2ab7969dcd980b3db9b458da7603124d6dc005e4d6e04b4d0c4baf3275db827dbba0a6db09672171fc057"
    "b3851d7e026841e2978fbd2346bbefdd0376bb1108fe9acc92189f5650aa5e85d8e8c7b67ac510dba003d3d7e16350"
    "bb66d45013efd44c9b607c0d318c4c7d1a1f5cbc57e20611804e3787d7b4a4b5f08ed8fd70bdaeade02260b12ab842"
    "ef690b4a3ee7911e841b374ecd5ebbbc2a54d047b600336dd7d0c88b4bc10e58ee6cb656de7247fa20d8e91deb8462"
    "8608cf80615b62e96c1491c7ac3755eb6901405d3474fe1ac79d106a0cee56c2577fc88480f96cb6b8c681b7b68b53"
    "c146093908f350888175bdfb0b1e31ad61e30ba0adfe6d223aa03c0783b5001a57587c328a9afcfcfb978d1cd4328f"
    "7d9d60530e630befd96c0c816ee20b0100768ae2a6df51fc68f172740a79af11398ee3be1252491fa9c693479e877f"
    "94ab7c5f8cad480203e6ab7b87dd71e8a0729113df17f5eee86ce108d1d72007ec1cd13c85a6c149621e77b7d78d80"
    "5a30f0be030c315e54";

static const char trace5_client_flight[] =
    "1703030035d74f1923c662fd34137c6f502f3dd2b93d951d1b3bc97e42afe23c31abea92fe91b474999e85e3b791ce"
    "252fe8c3e9f939a4120cb2";

/* ---- RFC 8448 ---- */

static b32 tlst_hex_is(const u8 *bytes, iz n, const char *hex)
{
    return str_eq((str){bytes, n}, hex_bytes(hex));
}

static void trace_start(tls *t, const char *const *hellos, iz count)
{
    memset(t, 0, sizeof *t);
    t->hash = SHA256;
    t->cipher = AES_128_GCM;
    t->ccs_sent = 1; /* the traces have no compatibility mode */
    hash_init(&t->transcript[SHA256], SHA256);
    for (iz i = 0; i < count; i++)
        if (i == 1)
            tls_restart_transcript(t, hex_bytes(hellos[i]));
        else
            hash_add(&t->transcript[SHA256], hex_bytes(hellos[i]));
}

/* The two traffic secrets of a stage; keys for the receiving side are set. */
static void trace_secrets(tls *t, const char *c, const char *c_hex, const char *s,
                          const char *s_hex, u8 ours[HASH_MAX])
{
    tls_derive(t, c, ours);
    tls_derive_keys(t, &t->receive, s);
    CHECK(!c_hex || tlst_hex_is(ours, 32, c_hex));
    CHECK(!s_hex || tlst_hex_is(t->receive.secret, 32, s_hex));
}

/* Opens a record of a trace. */
static str trace_open(tls *t, const char *hex, u8 *buf, u8 *type)
{
    iz n = tls_unhex(hex, buf);
    return tls_open(t, buf, n - 5, type);
}

/* Whether the trace's CertificateVerify, in `message`, is over the content that the engine would
 * check: RSASSA-PSS with 1,024 bits, so that the openssl command has to do it. */
static int trace_verify(str shown_one, str content, str signature)
{
    char dir[] = "/tmp/sec8_XXXXXX", name[80], command[600];
    const char *const names[] = {"cert", "content", "signature"};
    const str files[] = {shown_one, content, signature};
    if (!mkdtemp(dir))
        return -1;
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s/%s", dir, names[i]);
        FILE *f = fopen(name, "wb");
        if (!f)
            return -1;
        fwrite(files[i].ptr, 1, (size_t)files[i].len, f);
        fclose(f);
    }
    snprintf(command, sizeof command,
             "cd %s && openssl x509 -inform DER -in cert -noout -pubkey >key 2>err && "
             "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 "
             "-verify key -signature signature content >out 2>&1; r=$?; rm -r %s; exit $r",
             dir, dir);
    return system(command);
}

static void test_tls_rfc8448_simple(void)
{
    static const char *const hellos[] = {trace3_client_hello};
    static u8 buf[2000];
    u8 shared[32], ours[HASH_MAX], data[HASH_MAX], content[TLS_SIGNED_MAX], type;
    tls *t = &the_client.t;
    if (!tls_test_aes()) {
        skipped++;
        return;
    }
    trace_start(t, hellos, 1);
    hash_add(&t->transcript[SHA256], hex_bytes(trace3_server_hello));
    CHECK(!x25519(
        shared, hex_bytes("49af42ba7f7994852d713ef2784bcbcaa7911de26adc5642cb634540e7ea5005").ptr,
        hex_bytes("c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f").ptr));
    CHECK(tlst_hex_is(shared, 32,
                      "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d"));
    tls_schedule_start(t);
    CHECK(tlst_hex_is(t->secret, 32,
                      "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"));
    tls_schedule_next(t, (str){shared, 32});
    CHECK(tlst_hex_is(t->secret, 32,
                      "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac"));
    trace_secrets(
        t, "c hs traffic", "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21",
        "s hs traffic", "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38", ours);
    copy(t->send.secret, ours, HASH_MAX);
    tls_set_keys(t, &t->send);
    /* the server's flight */
    str flight = trace_open(t, trace3_server_flight, buf, &type);
    CHECK(!t->error && type == TLS_HANDSHAKE && flight.len == 40 + 445 + 136 + 36);
    CHECK(str_eq(str_span(flight, 0, 40), hex_bytes(trace3_encrypted_extensions)));
    CHECK(str_eq(str_span(flight, 40, 485), hex_bytes(trace3_certificate)));
    CHECK(str_eq(str_span(flight, 485, 621), hex_bytes(trace3_certificate_verify)));
    CHECK(str_eq(str_span(flight, 621, 657), hex_bytes(trace3_finished)));
    hash_add(&t->transcript[SHA256], str_span(flight, 0, 485));
    tls_digest(t);
    str shown_one = str_span(hex_bytes(trace3_certificate), 11, 443);
    str signature = str_span(hex_bytes(trace3_certificate_verify), 8, 136);
    CHECK(trace_verify(shown_one, tls_signed_content(t, content), signature) == 0);
    t->digest[0] ^= 1;
    CHECK(trace_verify(shown_one, tls_signed_content(t, content), signature) > 0);
    hash_add(&t->transcript[SHA256], str_span(flight, 485, 621));
    tls_digest(t);
    tls_verify_data(t, &t->receive, data);
    CHECK(str_eq((str){data, 32}, str_span(flight, 625, 657)));
    /* Finished itself, by the function that judges it; it sends the client's flight */
    hash_add(&t->transcript[SHA256], str_span(flight, 621, 657));
    tls wrong = *t;
    data[31] ^= 1;
    wrong.r = reader_of((str){data, 32});
    tls_finished(&wrong);
    CHECK(wrong.error == E_TlsFinished);
    tls again = *t;
    tls_schedule_next(t, (str){(u8[32]){0}, 32});
    CHECK(tlst_hex_is(t->secret, 32,
                      "18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"));
    trace_secrets(
        t, "c ap traffic", "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "s ap traffic", "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", ours);
    *t = again;
    t->state = TLS_WAIT_FINISHED;
    t->r = reader_of(str_span(flight, 625, 657));
    tls_finished(t);
    CHECK(!t->error);
    t->state = TLS_CONNECTED; /* as tls_message does */
    CHECK(str_eq(tls_output(t), hex_bytes(trace3_client_flight)));
    tls_digest(t);
    CHECK(tlst_hex_is(t->digest, 32,
                      "209145a96ee8e2a122ff810047cc952684658d6049e86429426db87c54ad143d"));
    tls_sent(t, tls_output(t).len);
    /* ticket, data both ways, close both ways, through the engine */
    static const char *const records[] = {trace3_ticket_record, trace3_server_data,
                                          trace3_server_alert};
    iz room;
    for (int i = 0; i < 3; i++) {
        str record = hex_bytes(records[i]);
        copy(tls_input_room(t, &room), record.ptr, record.len);
        tls_input(t, record.len);
    }
    CHECK(t->tickets == 0 && tls_plain(t).len == 50);
    u8 counting[50];
    for (int i = 0; i < 50; i++)
        counting[i] = (u8)i;
    CHECK(str_eq(tls_plain(t), (str){counting, 50}));
    CHECK(tls_write(t, (str){counting, 50}) == 50);
    CHECK(str_eq(tls_output(t), hex_bytes(trace3_client_data)));
    tls_sent(t, tls_output(t).len);
    tls_consume(t, 50);
    str record = hex_bytes(records[2]);
    copy(tls_input_room(t, &room), record.ptr, record.len);
    tls_input(t, record.len);
    CHECK(!t->error && tls_closed(t));
    tls_close(t);
    CHECK(str_eq(tls_output(t), hex_bytes(trace3_client_alert)));
}

/* The traces' server is refused: by the client as it is for an extension that it did not send; and
 * apart from that for its certificate, RSA with 1,024 bits and signed by itself. */
static void test_tls_rfc8448_refused(void)
{
    static const char *const hellos[] = {trace3_client_hello};
    tls *t = &the_client.t;
    for (int i = 0; i < 2; i++) {
        trace_start(t, hellos, 1);
        t->query.host = S("server");
        t->named = 1;
        t->query.now = 1500000000; /* the certificate is of 2016 to 2026 */
        t->state = i ? TLS_WAIT_CERTIFICATE_OR_REQUEST : TLS_WAIT_ENCRYPTED_EXTENSIONS;
        str message = hex_bytes(i ? trace3_certificate : trace3_encrypted_extensions);
        tls_handshake(t, message);
        str out = tls_output(t);
        CHECK(out.len == 7 && out.ptr[0] == 21 && out.ptr[5] == 2);
        if (i)
            CHECK(t->error == E_CertKeyWeak && out.ptr[6] == 42);
        else
            CHECK(t->error == E_TlsExtensionUnasked && out.ptr[6] == 110);
    }
}

static void test_tls_rfc8448_retry(void)
{
    static const char *const hellos[] = {trace5_client_hello_1, trace5_retry_request,
                                         trace5_client_hello_2, trace5_server_hello};
    static u8 buf[2000];
    u8 shared[32], peer_point[65], ours[HASH_MAX], type;
    tls *t = &the_client.t;
    if (!tls_test_aes()) {
        skipped++;
        return;
    }
    trace_start(t, hellos, 4);
    tls_digest(t);
    CHECK(tlst_hex_is(t->digest, 32,
                      "8aa8e828ec2f8a884fec95a3139de01c15a3daa7ff5bfc3f4bfcc21b438d7bf8"));
    str secret = hex_bytes("ab5473467e19346ceb0a0414e41da21d4d2445bc3025afe97c4e8dc8d513da39");
    CHECK(!p256_public(peer_point, secret.ptr));
    CHECK(str_eq((str){peer_point, 65}, str_span(hex_bytes(trace5_client_hello_2), 93, 158)));
    CHECK(!p256_ecdh(shared, secret.ptr, str_span(hex_bytes(trace5_server_hello), 52, 117)));
    CHECK(tlst_hex_is(shared, 32,
                      "c142ce13ca11b5c2233652e63ad3d97844f1621fbfb9de69d547dc8fedeabeb4"));
    tls_schedule_start(t);
    tls_schedule_next(t, (str){shared, 32});
    CHECK(tlst_hex_is(t->secret, 32,
                      "ce022e5e6e81e50736d773f2d3adfce8220d049bf510f0dbfac927ef4243b148"));
    trace_secrets(
        t, "c hs traffic", "158aa7ab8855073582b41d674b4055cabcc534728f659314861b4e08e2011566",
        "s hs traffic", "3403e781e2af7b6508da28574f6e95a1abf162de83a97927c37672a4a0cef8a1", ours);
    copy(t->send.secret, ours, HASH_MAX);
    tls_set_keys(t, &t->send);
    str flight = trace_open(t, trace5_server_flight, buf, &type);
    CHECK(!t->error && type == TLS_HANDSHAKE && flight.len == 28 + 445 + 136 + 36);
    CHECK(str_eq(str_span(flight, 28, 473), hex_bytes(trace3_certificate)));
    hash_add(&t->transcript[SHA256], str_span(flight, 0, 609));
    tls_digest(t);
    hash_add(&t->transcript[SHA256], str_span(flight, 609, 645));
    t->state = TLS_WAIT_FINISHED;
    t->r = reader_of(str_span(flight, 613, 645));
    tls_finished(t);
    CHECK(!t->error && str_eq(tls_output(t), hex_bytes(trace5_client_flight)));
}

/* ---- fuzz entries ---- */

/* Bytes as they come from the wire. The first says where: before any key; or as records
 * {type, length in 2 bytes, content} that are sealed here, after ServerHello or connected. */
static void fuzz_tls_records(const u8 *data, iz size)
{
    static tls_user start[3];
    static b32 made;
    static peer_keys keys[3];
    peer *s = &the_peer;
    tls_user *c = &the_client;
    for (; !made; made = 1)
        for (int i = 0; i < 3; i++) {
            const tls_plot p = {.order = i == 0 ? "" : i == 1 ? "H|1" : TLST_GOOD};
            plan_run(&p);
            start[i] = *c;
            keys[i] = s->out;
        }
    if (!size)
        return;
    int which = *data % 3;
    *c = start[which];
    c->plain_len = c->sent_len = 0;
    s->wire_len = 0;
    s->out = keys[which];
    s->p = (tls_plot){0};
    reader r = reader_of((str){data + 1, size - 1});
    if (!which)
        peer_run(s, "");
    while (which && reader_left(&r)) {
        u8 type = (u8)read_be(&r, 1);
        iz n = (iz)read_be(&r, 2) & 0x3fff;
        n = n < reader_left(&r) ? n : reader_left(&r);
        peer_record(s, type, read_bytes(&r, n));
    }
    str wire = which ? (str){s->wire, s->wire_len} : (str){r.at, reader_left(&r)};
    for (iz at = 0, n; at < wire.len; at += n) {
        n = 1 + (at * 37 + data[0]) % 500;
        n = n < wire.len - at ? n : wire.len - at;
        c->sent_len = c->plain_len = 0;
        client_feed(c, str_span(wire, at, at + n));
    }
    tls_end_of_input(&c->t);
    invariant(c->t.error || tls_closed(&c->t));
}

/* Handshake messages past decryption: the first byte says in which state. */
static void fuzz_tls_handshake(const u8 *data, iz size)
{
    static const char *const orders[] = {"",       "H|1",     "H|1E|",  "H|1EQ|",
                                         "H|1EC|", "H|1ECV|", TLST_GOOD};
    static tls_user start[7], retried;
    static b32 made;
    tls_user *c = &the_client;
    for (; !made; made = 1) {
        for (int i = 0; i < 7; i++) {
            const tls_plot p = {.order = orders[i]};
            plan_run(&p);
            start[i] = *c;
        }
        const tls_plot again = {.retry = "R|", .group = 0x17, .order = ""};
        plan_run(&again);
        retried = *c;
    }
    if (!size)
        return;
    *c = *data % 8 == 7 ? retried : start[*data % 8];
    str bytes = {data + 1, size - 1};
    for (iz at = 0, n; at < bytes.len && !c->t.error; at += n) {
        n = 1 + (at * 31 + data[0] / 8) % 300;
        n = n < bytes.len - at ? n : bytes.len - at;
        tls_handshake(&c->t, str_span(bytes, at, at + n));
        tls_sent(&c->t, tls_output(&c->t).len);
    }
    invariant((c->t.error != 0) == (c->t.state == TLS_ENDED));
}

/* A short turn of both, without a fuzzer: whole flights with random damage. */
static void test_tls_fuzz_turn(void)
{
    static u8 data[4000];
    u64 random = 88172645463325252;
    for (int round = 0; round < 3000; round++) {
        iz n = 0;
        data[n++] = (u8)round;
        for (int k = 0; k < 4; k++) {
            static const char *const seeds[] = {
                "080000020000",     "0d00000d00000a000d0006000404030804",
                "0b00000400000000", "0400001500001c20010203040200010005746f6b656e0000",
                "1800000100",       "0f0000080403000430020201"};
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            str m = hex_bytes(seeds[random % 6]);
            if (round % 2) {
                data[n++] = 22;
                data[n++] = 0;
                data[n++] = (u8)m.len;
            }
            copy(data + n, m.ptr, m.len);
            n += m.len;
        }
        for (u64 flips = random >> 32 & 3; flips; flips--) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            data[1 + random % (u64)(n - 1)] ^= (u8)(random >> 40);
        }
        if (round % 2)
            fuzz_tls_records(data, n);
        else
            fuzz_tls_handshake(data, n);
    }
    CHECK(1);
}

/* ---- section 9: DNS ---- */

/* ---- for skill_test.c alone, since the product never writes an address as text ---- */

/* A number in base 10 or 16 (lower case), without leading zeros. */
static void put_number(writer *w, u32 v, u32 base)
{
    u8 digits[10]; /* 2^32 - 1 has ten */
    iz at = countof(digits);
    do {
        digits[--at] = (u8)(v % base < 10 ? '0' + v % base : 'a' + v % base - 10);
        v /= base;
    } while (v);
    put(w, (str){digits + at, countof(digits) - at});
}

/* Writes an address without its port, at most 39 bytes: IPv6 by RFC 5952 4 and, for ::ffff:0:0/96,
 * 5; without brackets. */
static void put_address(writer *w, const address *a)
{
    static const u8 mapped[12] = {[10] = 0xff, [11] = 0xff};
    b32 embeds = a->v6 && !memcmp(a->ip, mapped, sizeof mapped);
    if (embeds)
        put(w, S("::ffff:"));
    if (embeds || !a->v6) {
        for (iz i = 0; i < 4; i++) {
            if (i)
                put_byte(w, '.');
            put_number(w, a->ip[(embeds ? 12 : 0) + i], 10);
        }
        return;
    }
    iz gap = 8, length = 1; /* the first longest run of zero groups; a single one is not cut */
    for (iz i = 0, run = 0; i < 8; i++) {
        run = a->ip[2 * i] | a->ip[2 * i + 1] ? 0 : run + 1;
        if (run > length) {
            length = run;
            gap = i + 1 - run;
        }
    }
    for (iz i = 0; i < 8; i++) {
        if (i == gap) {
            put(w, S("::"));
            i += length - 1;
            continue;
        }
        if (i && i != gap + length)
            put_byte(w, ':');
        put_number(w, (u32)a->ip[2 * i] << 8 | a->ip[2 * i + 1], 16);
    }
}

/* ---- helpers ---- */

static u32 dns_seed = 1;
static u32 dns_random(u32 below)
{
    dns_seed = dns_seed * 1664525u + 1013904223u;
    return (u32)((u64)(dns_seed >> 8) * below >> 24);
}

/* The addresses of an answer as text, joined by commas. */
static const char *dns_text(const dns_answer *a)
{
    static u8 room[512];
    writer w = writer_of(room, sizeof room - 1);
    for (iz i = 0; i < a->count; i++) {
        if (i)
            put_byte(&w, ',');
        put_address(&w, &a->at[i]);
    }
    room[w.len] = 0;
    return (const char *)room;
}

static iz dns_hex(u8 *out, const char *hex)
{
    iz n = 0;
    unsigned byte;
    for (; *hex; hex++)
        if (*hex != ' ' && sscanf(hex++, "%2x", &byte) == 1)
            out[n++] = (u8)byte;
    return n;
}

/* Writes a name: labels as they are, `@` a pointer to the question's name, `*12` one to offset 12,
 * either also after labels, as in `www.@`. */
static void make_name(writer *w, const char *name)
{
    while (*name && *name != '.') {
        iz n = (iz)strcspn(name, ".");
        if (*name == '@' || *name == '*') {
            put_be(w, 0xc000 | (u64)(*name == '@' ? 12 : atoi(name + 1)), 2);
            return;
        }
        put_byte(w, (u8)n);
        put(w, (str){(const u8 *)name, n});
        name += n + (name[n] == '.');
    }
    put_byte(w, 0);
}

/* Writes a message. Records are `owner TYPE ttl data`, separated by `;`, with `!` before the first
 * of the authority section and `+` before the first of the additional one. A type may be a number
 * with its data in hexadecimal, and end in `/class`. */
static iz make_message(u8 *out, unsigned id, unsigned flags, const char *name, unsigned type,
                       const char *records)
{
    writer w = writer_of(out, 65535);
    int count[3] = {0}, section = 0;
    char owner[300], kind[40], data[600];
    unsigned long ttl;
    put_be(&w, id, 2);
    put_be(&w, flags, 2);
    put_be(&w, 1, 2);
    put_be(&w, 0, 6);
    make_name(&w, name);
    put_be(&w, type, 2);
    put_be(&w, 1, 2);
    for (const char *at = records; *at; at += *at == ';') {
        at += strspn(at, " ");
        if (*at == '!')
            section = 1, at++;
        else if (*at == '+')
            section = 2, at++;
        data[0] = 0;
        if (sscanf(at, "%299s %39s %lu %599[^;]", owner, kind, &ttl, data) < 3)
            abort();
        at += strcspn(at, ";");
        char *slash = strchr(kind, '/');
        make_name(&w, !strcmp(owner, ".") ? "" : owner);
        put_be(&w,
               !strncmp(kind, "AAAA", 4)    ? 28
               : !strncmp(kind, "CNAME", 5) ? 5
               : kind[0] == 'A'             ? 1
                                            : (u64)atoi(kind),
               2);
        put_be(&w, slash ? (u64)atoi(slash + 1) : 1, 2);
        put_be(&w, ttl, 4);
        iz length = w.len;
        put_be(&w, 0, 2);
        if (!strncmp(kind, "CNAME", 5)) {
            make_name(&w, data);
        } else if (kind[0] == 'A') {
            w.len += inet_pton(kind[1] == 'A' ? AF_INET6 : AF_INET, data, out + w.len) == 1
                         ? (kind[1] == 'A' ? 16 : 4)
                         : (abort(), 0);
        } else {
            w.len += dns_hex(out + w.len, data);
        }
        out[length] = (u8)((w.len - length - 2) >> 8);
        out[length + 1] = (u8)(w.len - length - 2);
        count[section]++;
    }
    for (int i = 0; i < 3; i++) {
        out[6 + 2 * i] = (u8)(count[i] >> 8);
        out[7 + 2 * i] = (u8)count[i];
    }
    return w.len;
}

static void fresh_answer(dns_answer *a)
{
    memset(a, 0, sizeof *a);
    a->ttl = DNS_TTL_MAX;
}

/* Parses from a heap block of just that size, so that AddressSanitizer sees the first byte of an
 * overrun; and checks what holds for every input. */
static err parse_tight(const u8 *reply, iz n, unsigned id, const char *name, unsigned type,
                       dns_answer *out)
{
    u8 *tight = malloc((size_t)n + !n);
    dns_name asked;
    memcpy(tight, reply, (size_t)n);
    CHECK(!dns_name_of(unit_str(name), &asked));
    fresh_answer(out);
    err e = dns_parse((str){tight, n}, (u16)id, &asked, type << 16 | 1, out);
    free(tight);
    if ((e == E_None) != (out->count > 0) || out->count > DNS_ADDRESSES_MAX || out->ttl < 0 ||
        out->ttl > DNS_TTL_MAX)
        check_at(__FILE__, __LINE__, 0, "what dns_parse promises");
    return e;
}

/* A row of vectors.md: the reply with the id and question that it says were asked. */
static int dns_vector(const char *query, str reply, const char *addresses)
{
    dns_name name, asked;
    dns_answer out;
    reader r = reader_of(reply);
    fresh_answer(&out);
    if (dns_name_of(unit_str(query), &name))
        return 0;
    u16 id = (u16)read_be(&r, 2);
    read_bytes(&r, reader_left(&r) < 10 ? 0 : 10);
    dns_read_name(&r, reply, &asked);
    u32 type = (u32)read_be(&r, 2) << 16 | 1;
    if (r.error || (type != DNS_A && type != DNS_AAAA))
        return 0;
    err e = dns_parse(reply, id, &name, type, &out);
    str wanted = unit_str(addresses);
    iz n = 0;
    for (address a; wanted.len; n++) {
        if (address_of(str_cut(&wanted, ','), &a))
            return 0;
        if (n < out.count && memcmp(&a, &out.at[n], 17)) /* ip and v6 */
            return 0;
    }
    if (!n)
        return e == E_DnsNoAddress || e == E_DnsNoSuchName;
    return !e && out.count == (n < DNS_ADDRESSES_MAX ? n : DNS_ADDRESSES_MAX);
}

/* ---- pure functions ---- */

static void test_dns_address_text(void)
{
    static const struct {
        const char *text, *canonical; /* 0: refused */
    } rows[] = {
        {"0.0.0.0", "0.0.0.0"},
        {"127.0.0.1", "127.0.0.1"},
        {"255.255.255.255", "255.255.255.255"},
        {"::", "::"},
        {"::1", "::1"},
        {"1::", "1::"},
        {"[::1]", "::1"},
        {"[2001:DB8::A]", "2001:db8::a"},
        /* RFC 5952 1, 2.2, 4.2 */
        {"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
        {"2001:0db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
        {"2001:db8::1:0:0:1", "2001:db8::1:0:0:1"},
        {"2001:DB8:0:0:1::1", "2001:db8::1:0:0:1"},
        {"2001:db8:aaaa:bbbb:cccc:dddd:0:1", "2001:db8:aaaa:bbbb:cccc:dddd:0:1"},
        {"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
        {"2001:0:0:1:0:0:0:1", "2001:0:0:1::1"},
        {"2001:db8::aaaa:0:0:1", "2001:db8::aaaa:0:0:1"},
        {"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
        {"::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"},
        {"1:0:0:4:5:6:0:0", "1::4:5:6:0:0"},
        {"1:0:3:4:5:0:0:0", "1:0:3:4:5::"},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.1"},
        {"::FFFF:c000:201", "::ffff:192.0.2.1"},
        {"::192.0.2.1", "::c000:201"},
        {"64:ff9b::192.0.2.33", "64:ff9b::c000:221"},
        {"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"},
        {"", 0},
        {"1", 0},
        {"127.1", 0},
        {"1.2.3", 0},
        {"1.2.3.", 0},
        {"1.2.3.4.", 0},
        {".1.2.3.4", 0},
        {"1..3.4", 0},
        {"1.2.3.4.5", 0},
        {"256.1.1.1", 0},
        {"1.1.1.256", 0},
        {"1.1.1.0001", 0},
        {"01.2.3.4", 0},
        {"1.2.3.00", 0},
        {"0x7f.0.0.1", 0},
        {"2130706433", 0},
        {"+1.2.3.4", 0},
        {" 1.2.3.4", 0},
        {"1.2.3.4 ", 0},
        {"1.2.3.4\n", 0},
        {"1.2.3.a", 0},
        {"[1.2.3.4]", 0},
        {":", 0},
        {":::", 0},
        {"::::", 0},
        {":1", 0},
        {"1:", 0},
        {":1:2:3:4:5:6:7:8", 0},
        {":1:2:3:4:5:6:7", 0},
        {"1:2:3:4:5:6:7", 0},
        {"1:2:3:4:5:6:7:", 0},
        {"1:2:3:4:5:6:7:8:", 0},
        {"1:2:3:4:5:6:7:8:9", 0},
        {"1:2:3:4:5:6:7:8::", 0},
        {"::1:2:3:4:5:6:7:8", 0},
        {"1:2:3:4::5:6:7:8", 0},
        {"1::2::3", 0},
        {"1:::2", 0},
        {"12345::", 0},
        {"00001::", 0},
        {"g::", 0},
        {"::1%lo", 0},
        {"::1.2.3", 0},
        {"::1.2.3.4.5", 0},
        {"::1.2.3.4:5", 0},
        {"1.2.3.4::", 0},
        {"1:2:3:4:5:6:7:1.2.3.4", 0},
        {"1:2:3:4:5:6:7:8:1.2.3.4", 0},
        {"::2:3:4:5:6:7:8:1.2.3.4", 0},
        {"1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1", 0},
        {"::256.2.3.4", 0},
        {"::01.2.3.4", 0},
        {"::f.2.3.4", 0},
        {"[", 0},
        {"[]", 0},
        {"[::1", 0},
        {"::1]", 0},
        {"[[::1]]", 0},
        {"localhost", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dns_answer a = {.count = 1};
        memset(a.at, 0xa5, sizeof a.at);
        err e = address_of(unit_str(rows[i].text), &a.at[0]);
        int good = rows[i].canonical
                       ? !e && !a.at[0].port && !strcmp(dns_text(&a), rows[i].canonical)
                       : e == E_AddressInvalid;
        check_at(__FILE__, __LINE__, good, rows[i].text);
        u8 *tight = malloc(16); /* nothing is written beyond it, whatever the text */
        reader r = reader_of(unit_str(rows[i].text));
        CHECK(!address_v6(&r, tight) == (!e && a.at[0].v6 && rows[i].text[0] != '['));
        free(tight);
    }
}

/* inet_pton and inet_ntop as oracles, on addresses and on texts spoiled in a place or two. */
static void test_dns_address_random(void)
{
    int accepted = 0, refused = 0, wrong = 0;
    for (int i = 0; i < 40000; i++) {
        u8 ip[16], want[16];
        char text[64];
        int v6 = i & 1;
        for (int k = 0; k < 16; k++) /* many zeros, so that runs of them are met */
            ip[k] = dns_random(3) ? 0 : (u8)dns_random(256);
        if (!dns_random(8))
            memcpy(ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
        inet_ntop(v6 ? AF_INET6 : AF_INET, ip, text, sizeof text);
        dns_answer a = {.count = 1};
        if (address_of(unit_str(text), &a.at[0]) || a.at[0].v6 != v6 ||
            memcmp(a.at[0].ip, ip, v6 ? 16 : 4))
            wrong++;
        /* inet_ntop writes the deprecated ::a.b.c.d form where RFC 5952 has no reason to */
        if (!(v6 && strchr(text, '.') && strncmp(text, "::ffff:", 7)) && strcmp(dns_text(&a), text))
            wrong++;
        for (u32 k = dns_random(3); k < 3; k++)
            text[dns_random((u32)strlen(text) + 1)] = ":::..0123456789abcdefF%x"[dns_random(24)];
        text[sizeof text - 1] = 0;
        int ok = inet_pton(AF_INET6, text, want) == 1 || inet_pton(AF_INET, text, want) == 1;
        err e = address_of(unit_str(text), &a.at[0]);
        if (ok != !e || (ok && memcmp(want, a.at[0].ip, a.at[0].v6 ? 16 : 4)))
            wrong++, fprintf(stderr, "oracle differs: %s\n", text);
        ok ? accepted++ : refused++;
    }
    CHECK(!wrong);
    CHECK(accepted > 1000 && refused > 1000);
}

static void test_dns_names(void)
{
    static const char label63[] = "a23456789012345678901234567890123456789012345678901234567890123";
    char longest[300], row[600];
    snprintf(longest, sizeof longest, "%s.%s.%s.%.61s", label63, label63, label63, label63);
    CHECK(strlen(longest) == 253);
    static const char *const good[][2] = {
        {"a", "\1a"},
        {"tfl", "\3tfl"},
        {"API.Tfl.Gov.UK", "\3api\3tfl\3gov\2uk"},
        {"api.tfl.gov.uk.", "\3api\3tfl\3gov\2uk"},
        {"_dmarc.a-b.x_y", "\6_dmarc\3a-b\3x_y"},
        {"1.2.3.4a", "\1"
                     "1\1"
                     "2\1"
                     "3\2"
                     "4a"},
        {"xn--bcher-kva.example", "\15xn--bcher-kva\7example"},
        {"Z0.-", "\2z0\1-"},
    };
    static const char *const bad[] = {
        "",        ".",    "..",        ".a",    "a..b", "a..",   "a b", "a/b",
        "a:80",    "a@b",  "b\xc3\xbc", "a\n",   "a\t",  "*.a",   "1",   "1.2",
        "1.2.3.4", "a.1",  "a.1.",      "[::1]", "::1",  "a%00b", "a,b", "256.256.256.256",
        "a\\b",    "a\"b", "{",         "`",     "@"};
    dns_name n;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        str wire = unit_str(good[i][1]);
        wire.len++; /* the root */
        err e = dns_name_of(unit_str(good[i][0]), &n);
        check_at(__FILE__, __LINE__, !e && str_eq((str){n.bytes, n.len}, wire), good[i][0]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_at(__FILE__, __LINE__, dns_name_of(unit_str(bad[i]), &n) == E_NameInvalid, bad[i]);
    CHECK(dns_name_of((str){(const u8 *)"a\0b", 3}, &n) == E_NameInvalid);
    CHECK(!dns_name_of(unit_str(label63), &n) && n.len == 65);
    snprintf(row, sizeof row, "%sx", label63);
    CHECK(dns_name_of(unit_str(row), &n) == E_NameInvalid);
    CHECK(!dns_name_of(unit_str(longest), &n) && n.len == 255);
    snprintf(row, sizeof row, "%s.", longest);
    CHECK(!dns_name_of(unit_str(row), &n) && n.len == 255);
    snprintf(row, sizeof row, "%sx", longest);
    CHECK(dns_name_of(unit_str(row), &n) == E_NameInvalid);
    snprintf(row, sizeof row, "%s.a", longest);
    CHECK(dns_name_of(unit_str(row), &n) == E_NameInvalid);
}

static void test_dns_query(void)
{
    /* by hand from RFC 1035 4.1 */
    static const u8 wanted[] = "\x12\x34\1\0\0\1\0\0\0\0\0\0\3www\7example\3com\0\0\34\0\1";
    u8 room[12 + DNS_NAME_MAX + 4];
    dns_name n;
    writer w = writer_of(room, sizeof room);
    CHECK(!dns_name_of(S("WWW.Example.com"), &n));
    dns_put_query(&w, 0x1234, &n, DNS_AAAA);
    CHECK(!w.error && str_eq(written(&w), (str){wanted, sizeof wanted - 1}));
}

static void test_dns_hosts_file(void)
{
    static const char file[] = "# comment\n"
                               "127.0.0.1\tlocalhost\n"
                               "192.0.2.1 one.test one # two.test\n"
                               "  192.0.2.2   two.test\r\n"
                               "::2 two.test\n"
                               "192.0.2.22 Two.Test. other\n"
                               "not-an-address three.test\n"
                               "192.0.2.3\n"
                               "192.0.2.300 three.test\n"
                               "fe80::1%eth0 three.test\n"
                               "three.test 192.0.2.3\n"
                               "\n#192.0.2.4 four.test\n"
                               "192.0.2.5 five.testx xfive.test five .five.test\n"
                               "192.0.2.6 bad_\xff six.test\n"
                               "192.0.2.7 last.test";
    static const char *const rows[][2] = {
        {"one.test", "192.0.2.1"},
        {"ONE", "192.0.2.1"},
        {"one.test.", "192.0.2.1"},
        {"two.test", "192.0.2.2,192.0.2.22,::2"},
        {"three.test", ""},
        {"four.test", ""},
        {"five.test", ""},
        {"six.test", "192.0.2.6"},
        {"last.test", "192.0.2.7"},
        {"last.tes", ""},
        {"comment", ""},
    };
    dns_name n;
    dns_answer a;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fresh_answer(&a);
        CHECK(!dns_name_of(unit_str(rows[i][0]), &n));
        dns_hosts(unit_str(file), &n, &a);
        check_at(__FILE__, __LINE__, !strcmp(dns_text(&a), rows[i][1]), rows[i][0]);
    }
    CHECK(!dns_name_of(S("last.test"), &n));
    for (size_t cut = 0; cut < sizeof file; cut++) { /* ends at every byte, on the heap for ASan */
        u8 *tight = malloc(cut + !cut);
        memcpy(tight, file, cut);
        fresh_answer(&a);
        dns_hosts((str){tight, (iz)cut}, &n, &a);
        CHECK(a.count == (cut == sizeof file - 1 || cut == sizeof file));
        free(tight);
    }
}

static void test_dns_resolv_conf(void)
{
    static const char *const rows[][2] = {
        {"", "127.0.0.1"},
        {"nameserver 192.0.2.53", "192.0.2.53"},
        {"nameserver 192.0.2.53\n", "192.0.2.53"},
        {"# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\t192.0.2.3\r\n", "192.0.2.3"},
        {"domain x\nsearch a b\noptions timeout:1\nnameserver ::1\nnameserver 10.0.0.1\n",
         "::1,10.0.0.1"},
        {"nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4\n",
         "1.0.0.1,1.0.0.2,1.0.0.3"},
        {"nameserver 1.0.0.1 1.0.0.2\n", "1.0.0.1"},
        {"nameserver 1.0.0.1 # ours\n", "1.0.0.1"},
        {"nameserver nowhere\nnameserver\nnameserver 1.2.3\nnameserver fe80::1%eth0\n",
         "127.0.0.1"},
        {"nameserver\n1.0.0.1\n", "127.0.0.1"},
        {"nameservers 1.0.0.1\nnameserve 1.0.0.1\nNAMESERVER 1.0.0.1\n", "127.0.0.1"},
        {"nameserver1.0.0.1\n", "127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dns_answer a = {0};
        memset(a.at, 0xa5, sizeof a.at);
        char *tight = malloc(strlen(rows[i][0]) + 1);
        memcpy(tight, rows[i][0], strlen(rows[i][0]));
        a.count = dns_servers((str){(u8 *)tight, (iz)strlen(rows[i][0])}, a.at);
        free(tight);
        check_at(__FILE__, __LINE__, !strcmp(dns_text(&a), rows[i][1]), rows[i][0]);
        for (iz k = 0; k < a.count; k++)
            CHECK(a.at[k].port == 53);
    }
}

/* IPv4 goes before IPv6 and pushes it out when there is no room. */
static void test_dns_add(void)
{
    for (int seed = 0; seed < 500; seed++) {
        dns_answer a;
        address v4[40], v6[40];
        iz n4 = 0, n6 = 0;
        fresh_answer(&a);
        for (u32 k = dns_random(21); k; k--) {
            address one = {.ip = {(u8)k}, .v6 = dns_random(2)};
            dns_add(&a, &one);
            one.v6 ? (v6[n6++] = one) : (v4[n4++] = one);
        }
        int good = a.count == (n4 + n6 < 8 ? n4 + n6 : 8);
        for (iz i = 0; i < a.count; i++) {
            iz before = n4 < 8 ? n4 : 8;
            address *want = i < before ? &v4[i] : &v6[i - before];
            /* of IPv6, which of those that came is kept may depend on the order; the family not */
            good = good && a.at[i].v6 == want->v6 && (want->v6 || a.at[i].ip[0] == want->ip[0]);
        }
        CHECK(good);
    }
}

enum { REPLY = 0x8180, TC = 0x0200 };

static void test_dns_parse_replies(void)
{
    static const struct {
        const char *name;
        unsigned type, flags;
        const char *records;
        err error;
        const char *addresses;
        int ttl;
    } rows[] = {
        {"a.test", 1, REPLY, "@ A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 28, REPLY, "@ AAAA 60 2001:db8::1", E_None, "2001:db8::1", 60},
        {"a.test", 1, REPLY, "@ A 60 192.0.2.9;@ A 50 192.0.2.1;@ A 70 192.0.2.5", E_None,
         "192.0.2.9,192.0.2.1,192.0.2.5", 50},
        {"a.test", 1, REPLY, "A.TEST A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 1, 0x8000, "@ A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 1, 0x87f0, "@ A 60 192.0.2.1", E_DnsTruncated, "", 0}, /* all bits but rcode */
        {"a.test", 1, 0x85f0, "@ A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        /* other sections are read for their form alone */
        {"a.test", 1, REPLY,
         "@ A 60 192.0.2.1;!@ 2 1 00;@ A 1 192.0.2.2;+@ A 1 192.0.2.3;. 41/4096 0", E_None,
         "192.0.2.1", 60},
        {"a.test", 1, REPLY, "!@ A 1 192.0.2.2;+@ A 1 192.0.2.3", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ AAAA 60 ::1;@ 16 60 0161", E_DnsNoAddress, "", 0},
        {"a.test", 28, REPLY, "@ A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "b.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "x.@ A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "b.test A 60 192.0.2.1;@ A 60 192.0.2.2", E_None, "192.0.2.2", 60},
        {"a.test", 1, REPLY, "@ A/3 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ CNAME/3 60 b.test;b.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        /* TTL: RFC 2181 8 */
        {"a.test", 1, REPLY, "@ A 2147483648 192.0.2.1", E_None, "192.0.2.1", 0},
        {"a.test", 1, REPLY, "@ A 4294967295 192.0.2.1", E_None, "192.0.2.1", 0},
        {"a.test", 1, REPLY, "@ A 2147483647 192.0.2.1", E_None, "192.0.2.1", DNS_TTL_MAX},
        {"a.test", 1, REPLY, "@ A 0 192.0.2.1", E_None, "192.0.2.1", 0},
        {"a.test", 1, REPLY, "@ A 301 192.0.2.1", E_None, "192.0.2.1", 300},
        {"a.test", 1, REPLY, "b.test A 1 192.0.2.1;@ A 99 192.0.2.1", E_None, "192.0.2.1", 99},
        /* aliases */
        {"a.test", 1, REPLY, "@ CNAME 30 b.test;b.test A 60 192.0.2.1", E_None, "192.0.2.1", 30},
        {"a.test", 1, REPLY, "@ CNAME 90 b.test;b.test A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 28, REPLY, "@ CNAME 90 b.test;b.test AAAA 60 ::9", E_None, "::9", 60},
        {"a.test", 1, REPLY, "@ CNAME 90 B.TEST;b.test A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 1, REPLY, "@ CNAME 9 b.*14;b.test A 60 192.0.2.1;*36 A 60 192.0.2.2", E_None,
         "192.0.2.1,192.0.2.2", 9},
        {"a.test", 1, REPLY,
         "d.test A 60 192.0.2.1;c.test CNAME 60 d.test;b.test CNAME 60 c.test;@ CNAME 60 b.test",
         E_None, "192.0.2.1", 60},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test;b.test AAAA 60 ::1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test;c.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "b.test CNAME 60 c.test;c.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test;!b.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "!@ CNAME 60 b.test;+b.test A 60 192.0.2.1", E_DnsNoAddress, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 @", E_DnsChain, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test;b.test CNAME 60 @", E_DnsChain, "", 0},
        {"a.test", 1, REPLY, "b.test CNAME 60 @;@ CNAME 60 b.test", E_DnsChain, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 b.test;b.test CNAME 60 c.test;c.test CNAME 60 b.test",
         E_DnsChain, "", 0},
        {"a.test", 1, REPLY, "@ CNAME 60 ", E_DnsNoAddress, "", 0}, /* an alias of the root */
        /* an alias beside an address, which RFC 1034 3.6.2 forbids: the first one counts */
        {"a.test", 1, REPLY, "@ A 60 192.0.2.1;@ CNAME 9 b.test;b.test A 60 192.0.2.2", E_None,
         "192.0.2.1", 60},
        {"a.test", 1, REPLY, "@ CNAME 9 b.test;@ A 60 192.0.2.1;b.test A 60 192.0.2.2", E_None,
         "192.0.2.2", 9},
        /* codes */
        {"a.test", 1, REPLY | 1, "", E_DnsServerFailure, "", 0},
        {"a.test", 1, REPLY | 2, "", E_DnsServerFailure, "", 0},
        {"a.test", 1, REPLY | 3, "", E_DnsNoSuchName, "", 0},
        {"a.test", 1, REPLY | 3, "!test 6 60 00", E_DnsNoSuchName, "", 0},
        {"a.test", 1, REPLY | 3, "@ CNAME 60 b.test", E_DnsNoSuchName, "", 0},
        {"a.test", 1, REPLY | 3, "@ A 60 192.0.2.1", E_DnsNoSuchName, "", 0},
        {"a.test", 1, REPLY | 4, "", E_DnsServerFailure, "", 0},
        {"a.test", 1, REPLY | 5, "", E_DnsRefused, "", 0},
        {"a.test", 1, REPLY | 9, "", E_DnsServerFailure, "", 0},
        {"a.test", 1, REPLY | 2, "@ A 60 192.0.2.1", E_DnsServerFailure, "", 0},
        {"a.test", 1, REPLY | TC, "@ A 60 192.0.2.1", E_DnsTruncated, "", 0},
        {"a.test", 1, REPLY | TC, "", E_DnsTruncated, "", 0},
        {"a.test", 1, REPLY | TC | 3, "", E_DnsTruncated, "", 0},
        /* not a reply to a query */
        {"a.test", 1, 0x0180, "@ A 60 192.0.2.1", E_DnsStray, "", 0},
        {"a.test", 1, REPLY | 0x0800, "@ A 60 192.0.2.1", E_DnsStray, "", 0},
        {"a.test", 1, REPLY | 0x4000, "@ A 60 192.0.2.1", E_DnsStray, "", 0},
        /* data of the wrong form */
        {"a.test", 1, REPLY, "@ 1 60 c0000201ff", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 1 60 c00002", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 1 60", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ A 60 192.0.2.1;@ 1 60 c00002", E_DnsReplyInvalid, "", 0},
        {"a.test", 28, REPLY, "@ 28 60 c0000201", E_DnsReplyInvalid, "", 0},
        {"a.test", 28, REPLY, "@ 28 60 0102030405060708090a0b0c0d0e0f1011", E_DnsReplyInvalid, "",
         0},
        {"a.test", 1, REPLY, "@ 5 60", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 5 60 c00c00;b.test A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 5 60 0162;b.test A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 5 60 c0;b.test A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        /* names of the wrong form, as owner: 24 is where the first owner stands */
        {"a.test", 1, REPLY, "*24 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},   /* itself */
        {"a.test", 1, REPLY, "b.*24 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0}, /* a loop */
        {"a.test", 1, REPLY, "b.*26 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0}, /* itself, inside */
        {"a.test", 1, REPLY, "*40 A 60 192.0.2.1;b.test A 60 192.0.2.2", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "*25 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "*11 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0}, /* the header */
        {"a.test", 1, REPLY, "*0 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "*16383 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "*13 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0}, /* 'a' as a length */
        {"a.test", 1, REPLY, "@ A 60 192.0.2.1;+*11 16 60", E_DnsReplyInvalid, "", 0},
        /* 36 is the data of a first record: a label past the end, a pointer forward, to itself */
        {"a.test", 1, REPLY, "@ 16 60 c00c;*36 A 60 192.0.2.1", E_None, "192.0.2.1", 60},
        {"a.test", 1, REPLY, "@ 16 60 3f;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 16 60 10;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 16 60 c026c00c;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 16 60 c024;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 16 60 0162c024;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        /* the label types that are none, RFC 1035 4.1.4 */
        {"a.test", 1, REPLY, "@ 16 60 400c;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 16 60 800c;*36 A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 5 60 c024;b.test A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
        {"a.test", 1, REPLY, "@ 5 60 c032;b.test A 60 192.0.2.1", E_DnsReplyInvalid, "", 0},
    };
    static u8 message[65536];
    dns_answer a;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        iz n = make_message(message, 0x4142, rows[i].flags, rows[i].name, rows[i].type,
                            rows[i].records);
        err e = parse_tight(message, n, 0x4142, rows[i].name, rows[i].type, &a);
        int good = e == rows[i].error && !strcmp(dns_text(&a), rows[i].addresses) &&
                   (e || a.ttl == rows[i].ttl);
        check_at(__FILE__, __LINE__, good, rows[i].records);
        if (!good)
            fprintf(stderr, "  row %d: error %d, %s, ttl %d\n", (int)i, (int)e, dns_text(&a),
                    (int)a.ttl);
    }
}

/* Chains and lists of the lengths that the limits name. */
static void test_dns_parse_limits(void)
{
    static u8 message[65536];
    static char records[8000];
    dns_answer a;
    for (int reversed = 0; reversed < 2; reversed++)
        for (int steps = 1; steps <= 20; steps++) {
            char *at = records;
            if (reversed)
                at += sprintf(at, "n%d.test A 60 192.0.2.1", steps);
            for (int i = 0; i < steps; i++) {
                int k = reversed ? steps - 1 - i : i;
                at +=
                    sprintf(at, "%sn%d.test CNAME 60 n%d.test", at == records ? "" : ";", k, k + 1);
            }
            if (!reversed)
                sprintf(at, ";n%d.test A 60 192.0.2.1", steps);
            iz n = make_message(message, 7, REPLY, "n0.test", 1, records);
            err e = parse_tight(message, n, 7, "n0.test", 1, &a);
            CHECK(e == (steps <= DNS_CHAIN_MAX ? E_None : E_DnsChain));
        }
    for (int count = 1; count <= 300; count += count < 12 ? 1 : 96) {
        char *at = records, wanted[200] = "";
        for (int i = 0; i < count; i++) {
            at += sprintf(at, "%s@ A 60 10.0.%d.%d", i ? ";" : "", i / 256, i % 256);
            if (i < DNS_ADDRESSES_MAX)
                sprintf(wanted + strlen(wanted), "%s10.0.%d.%d", i ? "," : "", i / 256, i % 256);
        }
        iz n = make_message(message, 7, REPLY, "n0.test", 1, records);
        CHECK(!parse_tight(message, n, 7, "n0.test", 1, &a) && !strcmp(dns_text(&a), wanted));
        CHECK(dns_vector("n0.test", (str){message, n}, wanted));
    }
    /* A name of 255 bytes is taken, one of 256 not: three labels of 63, one of 56 or 57, and a
     * pointer to the last 6 bytes of the question's name. */
    for (int length = 56; length <= 57; length++) {
        writer w = writer_of(message, sizeof message);
        put(&w, S("\0\7\x81\x80\0\1\0\1\0\0\0\0\1a\4test\0\0\1\0\1"));
        for (int i = 0; i < 4; i++) {
            int label = i < 3 ? 63 : length;
            put_byte(&w, (u8)label);
            while (label--)
                put_byte(&w, 'x');
        }
        put(&w, S("\xc0\x0e\0\1\0\1\0\0\0\1\0\4\1\2\3\4"));
        CHECK(parse_tight(message, w.len, 7, "a.test", 1, &a) ==
              (length == 56 ? E_DnsNoAddress : E_DnsReplyInvalid));
    }
    /* Pointers to pointers, each strictly backwards: 127 are taken, 128 not. They stand in the data
     * of a TXT record, at 36 and up; the first leads to the question's name. */
    for (int jumps = 126; jumps <= 129; jumps++) {
        writer w = writer_of(message, sizeof message);
        put(&w, S("\0\7\x81\x80\0\1\0\2\0\0\0\0\1a\4test\0\0\1\0\1"));
        put(&w, S("\xc0\x0c\0\20\0\1\0\0\0\1"));
        put_be(&w, 2 * (u64)(jumps - 1), 2);
        CHECK(w.len == 36);
        for (int i = 0; i < jumps - 1; i++)
            put_be(&w, 0xc000 | (u64)(i ? w.len - 2 : 12), 2);
        put_be(&w, 0xc000 | (u64)(w.len - 2), 2);
        put(&w, S("\0\1\0\1\0\0\0\1\0\4\1\2\3\4"));
        CHECK(parse_tight(message, w.len, 7, "a.test", 1, &a) ==
              (jumps <= DNS_JUMPS_MAX ? E_None : E_DnsReplyInvalid));
    }
}

static void test_dns_parse_not_ours(void)
{
    static u8 message[65536];
    dns_answer a;
    iz n = make_message(message, 0x4142, REPLY, "aB.test", 1, "@ A 60 192.0.2.1");
    CHECK(!parse_tight(message, n, 0x4142, "Ab.tesT", 1, &a));
    CHECK(parse_tight(message, n, 0x4143, "ab.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x6142, "ab.test", 1, &a) == E_DnsStray); /* a letter's case */
    CHECK(parse_tight(message, n, 0x4162, "ab.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4241, "ab.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "ab.test", 28, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "ac.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "b.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "ab.tes", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "x.ab.test", 1, &a) == E_DnsStray);
    CHECK(parse_tight(message, n, 0x4142, "test", 1, &a) == E_DnsStray);
    for (int at = 0; at < 12 + 13; at++) /* each bit of header and question that is compared */
        for (int bit = 0; bit < 8; bit++) {
            int compared = at < 2 || (at == 2 && bit >= 3) || at == 4 || at == 5 || at >= 12;
            int letter = (at >= 13 && at < 15) || (at >= 16 && at < 20);
            if (!compared || (letter && bit == 5))
                continue;
            message[at] ^= (u8)(1 << bit);
            CHECK(parse_tight(message, n, 0x4142, "ab.test", 1, &a) == E_DnsStray);
            message[at] ^= (u8)(1 << bit);
        }
    /* a second question */
    message[5] = 2;
    CHECK(parse_tight(message, n, 0x4142, "ab.test", 1, &a) == E_DnsStray);
    message[5] = 0;
    CHECK(parse_tight(message, n, 0x4142, "ab.test", 1, &a) == E_DnsStray);
}

static void test_dns_parse_cut(void)
{
    static u8 message[65536];
    dns_answer a;
    static const char records[] =
        "@ CNAME 60 b.*14;b.test A 60 192.0.2.1;b.test A 60 192.0.2.2;!*14 2 60 c00c;"
        "+. 41/512 0 00";
    iz n = make_message(message, 9, REPLY, "a.test", 1, records);
    iz question = 12 + 8 + 4;
    CHECK(!parse_tight(message, n, 9, "a.test", 1, &a) && a.count == 2);
    for (iz cut = 0; cut < n; cut++)
        CHECK(parse_tight(message, cut, 9, "a.test", 1, &a) ==
              (cut < question ? E_DnsStray : E_DnsReplyInvalid));
    message[n] = 0;
    CHECK(parse_tight(message, n + 1, 9, "a.test", 1, &a) == E_DnsReplyInvalid);
    for (int at = 6; at < 12; at++) /* counts that lie */
        for (int delta = -1; delta <= 1; delta += 2) {
            u8 kept = message[at];
            message[at] = (u8)(message[at] + delta);
            CHECK(parse_tight(message, n, 9, "a.test", 1, &a) == E_DnsReplyInvalid);
            message[at] = kept;
        }
    memset(message + 6, 0xff, 6);
    CHECK(parse_tight(message, n, 9, "a.test", 1, &a) == E_DnsReplyInvalid);
    /* a length of data that reaches past the end, or short of it */
    n = make_message(message, 9, REPLY, "a.test", 1, "@ A 60 192.0.2.1");
    for (int length = 0; length < 70000; length = length < 8 ? length + 1 : length * 3) {
        message[n - 6] = (u8)(length >> 8);
        message[n - 5] = (u8)length;
        CHECK(parse_tight(message, n, 9, "a.test", 1, &a) ==
              ((length & 0xffff) == 4 ? E_None : E_DnsReplyInvalid));
    }
}

/* A name of a random chain, in one of its spellings: with n0 the question's own name. `*15` is
 * where example.test stands in the question. */
static const char *random_spelling(int i)
{
    static char room[2][40];
    static int turn;
    char *out = room[turn ^= 1];
    if (!i && dns_random(2))
        return "@";
    snprintf(out, 40, "%c%d.%s", dns_random(2) ? 'n' : 'N', i,
             dns_random(2) ? "*15" : "Example.TEST");
    return out;
}

/* Replies of random chains and lists with random compression, whole and with bytes spoiled. */
static void test_dns_parse_random(void)
{
    static u8 message[65536];
    static char records[4000];
    dns_answer a;
    int wrong = 0, survived = 0;
    for (int round = 0; round < 3000; round++) {
        char *at = records, wanted[400] = "";
        int chain = (int)dns_random(6), count = 1 + (int)dns_random(8);
        int v6 = (int)dns_random(2), ttl = DNS_TTL_MAX;
        for (int i = 0; i < chain; i++) {
            int t = (int)dns_random(400);
            const char *owner = random_spelling(i), *target = random_spelling(i + 1);
            at += sprintf(at, "%s CNAME %d %s;", owner, t, target);
            ttl = t < ttl ? t : ttl;
        }
        for (int i = 0; i < count; i++) {
            char ip[60];
            u8 raw[16];
            for (int k = 0; k < 16; k++)
                raw[k] = (u8)dns_random(256);
            inet_ntop(v6 ? AF_INET6 : AF_INET, raw, ip, sizeof ip);
            at += sprintf(at, "%s%s %s 300 %s", i ? ";" : "", random_spelling(chain),
                          v6 ? "AAAA" : "A", ip);
            sprintf(wanted + strlen(wanted), "%s%s", i ? "," : "", ip);
        }
        iz n =
            make_message(message, (unsigned)round, REPLY, "n0.example.test", v6 ? 28 : 1, records);
        if (parse_tight(message, n, (unsigned)round, "n0.example.test", v6 ? 28 : 1, &a) ||
            strcmp(dns_text(&a), wanted) || a.ttl != ttl)
            wrong++;
        CHECK(round > 50 || dns_vector("n0.example.test", (str){message, n}, wanted));
        for (int k = 0; k < 8; k++) {
            message[dns_random((u32)n)] = (u8)(dns_random(2) ? dns_random(256) : 0xc0);
            survived +=
                !parse_tight(message, n, (unsigned)round, "n0.example.test", v6 ? 28 : 1, &a);
        }
    }
    CHECK(!wrong);
    CHECK(survived > 100 && survived < 24000); /* the spoiling neither misses nor kills all */
}

static void test_dns_vector_rows(void)
{
    static u8 message[65536];
    iz n = make_message(message, 77, REPLY, "a.test", 1, "@ A 60 192.0.2.1;@ A 60 192.0.2.2");
    CHECK(dns_vector("a.test", (str){message, n}, "192.0.2.1,192.0.2.2"));
    CHECK(!dns_vector("a.test", (str){message, n}, "192.0.2.2,192.0.2.1"));
    CHECK(!dns_vector("a.test", (str){message, n}, "192.0.2.1"));
    CHECK(!dns_vector("a.test", (str){message, n}, "192.0.2.1,192.0.2.2,192.0.2.3"));
    CHECK(!dns_vector("a.test", (str){message, n}, ""));
    CHECK(!dns_vector("b.test", (str){message, n}, "192.0.2.1,192.0.2.2"));
    CHECK(!dns_vector("a.test", (str){message, n - 1}, "192.0.2.1,192.0.2.2"));
    for (iz cut = 0; cut < n; cut++)
        CHECK(!dns_vector("a.test", (str){message, cut}, ""));
    n = make_message(message, 77, REPLY, "a.test", 28, "@ AAAA 60 2001:db8::1");
    CHECK(dns_vector("a.test", (str){message, n}, "2001:db8:0::1"));
    n = make_message(message, 77, REPLY, "a.test", 28, "");
    CHECK(dns_vector("a.test", (str){message, n}, ""));
}

/* ---- the fake platform ---- */

enum { FAKE_SOCKETS = 64, FAKE_QUEUE = 24 };

typedef struct {
    b32 open, udp;
    int sent;
    address to;
    struct {
        u8 *data;
        iz len, had;
        i64 at; /* when it arrives; -1: the end of the stream; -2: a reset */
    } queue[FAKE_QUEUE];
    int head, tail;
} fake_socket;

static struct {
    b32 on;
    i64 now;
    int sockets, udp_sockets, mapped, maps, chunk;
    const char *hosts, *resolv;
    void (*serve)(int fd, str query); /* called with each query; without the length of TCP */
    err (*connecting)(const address *to, b32 udp); /* 0: all succeed */
    i64 deadline;                                  /* none later may be seen */
    u32 random;
    fake_socket at[FAKE_SOCKETS];
} fake;

static void fake_begin(void (*serve)(int, str))
{
    memset(&fake, 0, sizeof fake);
    fake_on = 1;
    fake.now = 5000000000;
    fake.chunk = 1 << 20;
    fake.resolv = "nameserver 192.0.2.53\n";
    fake.serve = serve;
    fake.deadline = -1;
}

static void fake_end(void)
{
    for (int i = 0; i < fake.sockets; i++) {
        CHECK(!fake.at[i].open);
        for (int k = 0; k < fake.at[i].tail; k++)
            free(fake.at[i].queue[k].data);
    }
    CHECK(!fake.mapped);
    fake_on = 0;
}

/* Queues bytes for a socket, to arrive `after` nanoseconds from now. */
static void fake_reply(int fd, const u8 *data, iz n, i64 after)
{
    fake_socket *s = &fake.at[fd];
    if (s->tail == FAKE_QUEUE)
        abort();
    u8 *kept = malloc((size_t)n + 2);
    iz prefix = s->udp ? 0 : 2;
    kept[0] = (u8)(n >> 8);
    kept[1] = (u8)n;
    memcpy(kept + prefix, data, (size_t)n);
    s->queue[s->tail].data = kept;
    s->queue[s->tail].len = n + prefix;
    s->queue[s->tail++].at = fake.now + after;
}

static void fake_event(int fd, i64 kind)
{
    fake_socket *s = &fake.at[fd];
    s->queue[s->tail].data = 0;
    s->queue[s->tail++].at = kind;
}

static unsigned query_type(str query)
{
    return query.ptr[query.len - 3];
}

/* Answers a query with these records. */
static void fake_answer(int fd, str query, unsigned flags, const char *records, i64 after)
{
    static u8 message[65536];
    iz n = make_message(message, 0, flags, "", 0, records); /* offsets of `@` hold all the same */
    iz question = query.len - 12;
    /* put the query's own question in place of the empty one, which is 5 bytes */
    memmove(message + 12 + question, message + 17, (size_t)(n - 17));
    memcpy(message + 12, query.ptr + 12, (size_t)question);
    memcpy(message, query.ptr, 2);
    fake_reply(fd, message, n - 5 + question, after);
}

static i64 fake_monotonic(void)
{
    return fake.now;
}

static void fake_random(u8 *out, iz n)
{
    while (n--)
        *out++ = (u8)((fake.random = fake.random * 1664525u + 1013904223u) >> 24);
}

static err fake_connect(i32 *fd, const address *to, b32 udp, i64 deadline)
{
    CHECK(to->port == 53);
    CHECK(fake.deadline < 0 || (deadline != FOREVER && deadline <= fake.deadline));
    err e = fake.connecting ? fake.connecting(to, udp) : E_None;
    if (e)
        return e;
    if (fake.sockets == FAKE_SOCKETS)
        abort();
    fake_socket *s = &fake.at[fake.sockets];
    *s = (fake_socket){.open = 1, .udp = udp, .to = *to};
    fake.udp_sockets += udp;
    *fd = fake.sockets++;
    return E_None;
}

static err fake_send(i32 fd, str data, i64 deadline)
{
    fake_socket *s = &fake.at[fd];
    CHECK(s->open && deadline != FOREVER && (fake.deadline < 0 || deadline <= fake.deadline));
    if (!s->udp) {
        CHECK(data.len > 2 && (data.ptr[0] << 8 | data.ptr[1]) == data.len - 2);
        data = str_span(data, 2, data.len);
    }
    s->sent++;
    if (fake.serve)
        fake.serve(fd, data);
    return E_None;
}

static iz fake_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error)
{
    fake_socket *s = &fake.at[fd];
    CHECK(s->open && deadline != FOREVER && (fake.deadline < 0 || deadline <= fake.deadline));
    if (s->head == s->tail || s->queue[s->head].at > deadline) {
        fake.now = deadline > fake.now ? deadline : fake.now;
        *error = E_TimedOut;
        return -1;
    }
    if (s->queue[s->head].at == -1)
        return 0;
    if (s->queue[s->head].at == -2) {
        *error = s->udp ? E_ConnectRefused : E_ConnectionReset;
        return -1;
    }
    if (s->queue[s->head].at > fake.now)
        fake.now = s->queue[s->head].at;
    iz left = s->queue[s->head].len - s->queue[s->head].had, n = left < cap ? left : cap;
    if (!s->udp && n > fake.chunk)
        n = fake.chunk;
    memcpy(buf, s->queue[s->head].data + s->queue[s->head].had, (size_t)n);
    s->queue[s->head].had += n;
    if (s->udp || s->queue[s->head].had == s->queue[s->head].len)
        s->head++;
    return n;
}

static void fake_close(i32 fd)
{
    CHECK(fake.at[fd].open);
    fake.at[fd].open = 0;
}

static str fake_map(const char *path)
{
    const char *text = !strcmp(path, "/etc/hosts")         ? fake.hosts
                       : !strcmp(path, "/etc/resolv.conf") ? fake.resolv
                                                           : (abort(), (char *)0);
    fake.mapped++;
    fake.maps++;
    return text ? unit_str(text) : (str){0};
}

static void fake_unmap(str file)
{
    (void)file;
    fake.mapped--;
}

/* ---- resolving over the fake platform ---- */

static dns_cache fake_cache;

/* Resolves with an empty cache inside 7 s; gives the addresses, or `!` and the error's number. */
static const char *fake_resolve(const char *host, err *error)
{
    dns_answer a;
    memset(&fake_cache, 0, sizeof fake_cache);
    memset(&a, 0xa5, sizeof a);
    fake.deadline = fake.now + 7 * SECOND;
    *error = dns_resolve(&fake_cache, unit_str(host), fake.deadline, &a);
    CHECK((a.count == 0) == (*error != E_None));
    for (iz i = 0; i < a.count; i++)
        CHECK(!a.at[i].port);
    CHECK(fake.now <= fake.deadline);
    return dns_text(&a);
}

static void serve_both(int fd, str query)
{
    if (query_type(query) == 1)
        fake_answer(fd, query, REPLY, "@ A 60 192.0.2.1;@ A 60 192.0.2.2", 1000);
    else
        fake_answer(fd, query, REPLY, "@ AAAA 60 2001:db8::1", 500);
}

static void test_dns_resolve_literals(void)
{
    static const struct {
        const char *host, *addresses;
        err error;
    } rows[] = {
        {"127.0.0.1", "127.0.0.1", E_None},
        {"::1", "::1", E_None},
        {"[2001:db8::1]", "2001:db8::1", E_None},
        {"localhost", "127.0.0.1,::1", E_None},
        {"LocalHost.", "127.0.0.1,::1", E_None},
        {"127.1", "", E_NameInvalid},
        {"1.2.3.4.5", "", E_NameInvalid},
        {"0300.1.1.1", "", E_NameInvalid},
        {"[::1", "", E_NameInvalid},
        {"", "", E_NameInvalid},
        {"a b", "", E_NameInvalid},
        {"-.", "192.0.2.1,192.0.2.2,2001:db8::1", E_None},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err e;
        fake_begin(serve_both);
        fake.hosts = "192.0.2.66 localhost\n"; /* is not believed */
        int good = !strcmp(fake_resolve(rows[i].host, &e), rows[i].addresses) && e == rows[i].error;
        check_at(__FILE__, __LINE__, good, rows[i].host);
        CHECK(fake.sockets == (rows[i].host[0] == '-'));
        fake_end();
    }
}

static void test_dns_resolve_hosts(void)
{
    err e;
    fake_begin(serve_both);
    fake.hosts = "::7 a.test\n192.0.2.7 x a.test\n";
    CHECK(!strcmp(fake_resolve("A.test", &e), "192.0.2.7,::7") && !e && !fake.sockets);
    CHECK(!strcmp(fake_resolve("b.test", &e), "192.0.2.1,192.0.2.2,2001:db8::1") && !e);
    CHECK(fake.sockets == 1 && fake.at[0].sent == 2); /* both questions on one socket */
    fake_end();
}

static u16 seen_ids[64];
static int seen;
static void serve_noting_ids(int fd, str query)
{
    seen_ids[seen++ % 64] = (u16)(query.ptr[0] << 8 | query.ptr[1]);
    (void)fd;
}

/* Silence: every attempt has its own socket and ids, waits 1, 2 and 4 s, and the end is in time. */
static void test_dns_resolve_silence(void)
{
    err e;
    dns_answer a;
    fake_begin(serve_noting_ids);
    seen = 0;
    i64 begun = fake.now;
    CHECK(!strcmp(fake_resolve("a.test", &e), "") && e == E_TimedOut);
    CHECK(fake.sockets == 3 && seen == 6 && fake.now == begun + 7 * SECOND);
    int distinct = 0;
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < i; k++)
            distinct += seen_ids[i] != seen_ids[k];
    CHECK(distinct == 15);
    fake_end();

    fake_begin(0); /* a deadline inside the first wait, in the second, and one that is past */
    for (int i = 0; i < 3; i++) {
        begun = fake.now;
        i64 length = i == 0 ? SECOND / 2 : i == 1 ? 2 * SECOND : 0;
        fake.sockets = 0;
        fake.deadline = begun + length;
        CHECK(dns_resolve(&fake_cache, S("a.test"), fake.deadline, &a) == E_TimedOut);
        CHECK(fake.now == begun + length && fake.sockets == (i == 0 ? 1 : i == 1 ? 2 : 0));
    }
    fake_end();

    fake_begin(0); /* without a deadline it ends all the same: three servers, 21 s */
    fake.resolv = "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver ::3\nnameserver 1.0.0.4\n";
    begun = fake.now;
    CHECK(dns_resolve(&fake_cache, S("a.test"), FOREVER, &a) == E_TimedOut);
    CHECK(fake.now == begun + 21 * SECOND && fake.sockets == 9);
    for (int i = 0; i < 9; i++)
        CHECK(i % 3 == 2 ? fake.at[i].to.v6 && fake.at[i].to.ip[15] == 3
                         : !fake.at[i].to.v6 && fake.at[i].to.ip[3] == i % 3 + 1);
    fake_end();
}

/* What server 1 does, by the test; server 2 always serves. */
static void (*first_server)(int fd, str query);
static void serve_second(int fd, str query)
{
    if (fake.at[fd].to.ip[3] == 1) {
        if (first_server)
            first_server(fd, query);
    } else {
        serve_both(fd, query);
    }
}

static void dnst_serve_failure(int fd, str query)
{
    fake_answer(fd, query, REPLY | 2, "", 100);
}

static void serve_refusal(int fd, str query)
{
    fake_answer(fd, query, REPLY | 5, "", 100);
}

static void serve_closed_port(int fd, str query)
{
    (void)query;
    fake_event(fd, -2);
}

static void serve_malformed(int fd, str query)
{
    fake_answer(fd, query, REPLY, query_type(query) == 1 ? "@ 1 60 0102" : "@ 28 60 0102", 100);
}

static void serve_strays(int fd, str query)
{
    u8 junk[40] = {0};
    if (query_type(query) == 1)
        for (int i = 0; i < 20; i++)
            fake_reply(fd, junk, i, 10);
}

static err refuse_first(const address *to, b32 udp)
{
    (void)udp;
    return to->ip[3] == 1 ? E_Unreachable : E_None;
}

static void test_dns_resolve_next_server(void)
{
    static const struct {
        const char *what;
        void (*serve)(int, str);
        err error; /* when there is no other server */
        i64 waited;
    } rows[] = {
        {"silence", 0, E_TimedOut, 1000000000},
        {"SERVFAIL", dnst_serve_failure, E_DnsServerFailure, 0},
        {"REFUSED", serve_refusal, E_DnsRefused, 0},
        {"closed port", serve_closed_port, E_ConnectRefused, 0},
        {"malformed", serve_malformed, E_DnsReplyInvalid, 0},
        {"strays", serve_strays, E_DnsStray, 0},
        {"unreachable", 0, E_Unreachable, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int alone = 0; alone < 2; alone++) {
            err e;
            first_server = rows[i].serve;
            fake_begin(serve_second);
            fake.resolv =
                alone ? "nameserver 192.0.2.1\n" : "nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
            if (!strcmp(rows[i].what, "unreachable"))
                fake.connecting = refuse_first;
            i64 begun = fake.now;
            const char *text = fake_resolve("a.test", &e);
            int good = alone ? e == rows[i].error && !*text
                             : !e && !strcmp(text, "192.0.2.1,192.0.2.2,2001:db8::1") &&
                                   fake.now < begun + rows[i].waited + SECOND / 10 &&
                                   fake.now >= begun + rows[i].waited;
            check_at(__FILE__, __LINE__, good, rows[i].what);
            if (!alone && fake.connecting)
                CHECK(fake.sockets == 1);
            fake_end();
        }
}

static void serve_no_such_name(int fd, str query)
{
    fake_answer(fd, query, REPLY | 3, "!. 6 60 00", 100);
}

static void serve_a_missing_name(int fd, str query) /* NXDOMAIN for A alone, then silence */
{
    if (query_type(query) == 1)
        serve_no_such_name(fd, query);
}

static void serve_aaaa_missing_name(int fd, str query) /* RFC 4074 4.2 */
{
    query_type(query) == 28 ? serve_no_such_name(fd, query) : serve_both(fd, query);
}

static void serve_nothing(int fd, str query)
{
    fake_answer(fd, query, REPLY, "", 100);
}

static void serve_v6_only(int fd, str query)
{
    query_type(query) == 1 ? serve_nothing(fd, query) : serve_both(fd, query);
}

static void serve_v6_failure(int fd, str query)
{
    query_type(query) == 28 ? dnst_serve_failure(fd, query) : serve_both(fd, query);
}

static void serve_v6_silence(int fd, str query)
{
    if (query_type(query) == 1)
        serve_both(fd, query);
}

static void serve_v4_silence(int fd, str query)
{
    if (query_type(query) == 28)
        serve_both(fd, query);
}

static void serve_v4_late(int fd, str query) /* the first attempt loses the A question */
{
    if (fake.sockets > 1 || query_type(query) == 28)
        serve_both(fd, query);
}

static void serve_nothing_then_failure(int fd, str query)
{
    query_type(query) == 1 ? serve_nothing(fd, query) : dnst_serve_failure(fd, query);
}

/* First datagrams that are not ours: wrong id, wrong type, wrong name, an empty one, the query
 * itself; then the right one twice, and the other question's; then a late copy. */
static void serve_disguised(int fd, str query)
{
    u8 copy_of[300];
    memcpy(copy_of, query.ptr, (size_t)query.len);
    fake_reply(fd, query.ptr, query.len, 1);
    fake_reply(fd, query.ptr, 0, 1);
    str other = {copy_of, query.len};
    copy_of[1] ^= 1;
    fake_answer(fd, other, REPLY, "@ A 60 192.0.2.66", 2);
    copy_of[1] ^= 1;
    copy_of[13] ^= 1;
    fake_answer(fd, other, REPLY, "@ A 60 192.0.2.67", 2);
    copy_of[13] ^= 1;
    copy_of[query.len - 3] ^= 2;
    fake_answer(fd, other, REPLY, "@ A 60 192.0.2.68", 2);
    serve_both(fd, query);
    serve_both(fd, query);
}

static void test_dns_resolve_answers(void)
{
    static const struct {
        const char *what;
        void (*serve)(int, str);
        const char *addresses;
        err error;
        int sockets;
        i64 waited;
    } rows[] = {
        {"both", serve_both, "192.0.2.1,192.0.2.2,2001:db8::1", E_None, 1, 1000},
        {"NXDOMAIN", serve_no_such_name, "", E_DnsNoSuchName, 1, 100},
        {"NXDOMAIN for A", serve_a_missing_name, "", E_DnsNoSuchName, 1, 50000100},
        {"NXDOMAIN for AAAA", serve_aaaa_missing_name, "192.0.2.1,192.0.2.2", E_None, 1, 1000},
        {"no address", serve_nothing, "", E_DnsNoAddress, 1, 100},
        {"AAAA only", serve_v6_only, "2001:db8::1", E_None, 1, 500},
        {"AAAA fails", serve_v6_failure, "192.0.2.1,192.0.2.2", E_None, 1, 1000},
        {"AAAA silent", serve_v6_silence, "192.0.2.1,192.0.2.2", E_None, 1, 50001000},
        {"A silent", serve_v4_silence, "2001:db8::1", E_None, 3, 7000000000},
        {"A lost once", serve_v4_late, "192.0.2.1,192.0.2.2,2001:db8::1", E_None, 2, 1000001000},
        {"none, then failure", serve_nothing_then_failure, "", E_DnsServerFailure, 3, 300},
        {"disguised", serve_disguised, "192.0.2.1,192.0.2.2,2001:db8::1", E_None, 1, 1000},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err e;
        fake_begin(rows[i].serve);
        i64 begun = fake.now;
        const char *text = fake_resolve("a.test", &e);
        int good = !strcmp(text, rows[i].addresses) && e == rows[i].error &&
                   fake.sockets == rows[i].sockets && fake.now - begun == rows[i].waited;
        check_at(__FILE__, __LINE__, good, rows[i].what);
        if (!good)
            fprintf(stderr, "  %s, error %d, %d sockets, %lld ns\n", text, (int)e, fake.sockets,
                    fake.now - begun);
        fake_end();
    }
}

/* TCP: truncated over UDP, whole over TCP, in pieces of every size; and what can go wrong there. */
static int tcp_mode;
static void serve_truncated(int fd, str query)
{
    static char many[4000];
    if (fake.at[fd].udp) {
        fake_answer(fd, query, REPLY | TC, query_type(query) == 1 ? "@ A 60 192.0.2.99" : "", 100);
        return;
    }
    u8 prefix[2] = {0, 40};
    many[0] = 0;
    for (int i = 0; i < 40; i++)
        sprintf(many + strlen(many),
                query_type(query) == 1 ? "%s@ A 60 192.0.2.%d" : "%s@ AAAA 60 2001:db8::%d",
                i ? ";" : "", i + 1);
    switch (tcp_mode) {
    case 0:
        fake_answer(fd, query, REPLY, many, 100);
        break;
    case 1: /* closed at once */
        fake_event(fd, -1);
        break;
    case 2: /* reset */
        fake_event(fd, -2);
        break;
    case 3: /* still truncated */
        fake_answer(fd, query, REPLY | TC, many, 100);
        break;
    case 4:                  /* an announced message that never comes whole */
        fake.at[fd].udp = 1; /* no prefix of its own */
        fake_reply(fd, prefix, 2, 100);
        fake.at[fd].udp = 0;
        fake_event(fd, -1);
        break;
    case 5: /* empty messages without end */
        for (int i = 0; i < 12; i++)
            fake_reply(fd, prefix, 0, 1);
        break;
    case 6: /* a foreign message first */
        fake_reply(fd, query.ptr, query.len, 1);
        fake_answer(fd, query, REPLY, many, 100);
        break;
    case 8: /* silence */
        break;
    }
}

static err refuse_tcp(const address *to, b32 udp)
{
    (void)to;
    return udp ? E_None : E_ConnectRefused;
}

static void test_dns_resolve_tcp(void)
{
    static const char all[] =
        "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4,192.0.2.5,192.0.2.6,192.0.2.7,"
        "192.0.2.8";
    static const err errors[] = {E_None,         E_Truncated,      E_ConnectionReset,
                                 E_DnsTruncated, E_Truncated,      E_DnsStray,
                                 E_None,         E_ConnectRefused, E_TimedOut};
    err e;
    for (tcp_mode = 0; tcp_mode < 9; tcp_mode++) {
        fake_begin(serve_truncated);
        if (tcp_mode == 7)
            fake.connecting = refuse_tcp;
        const char *text = fake_resolve("a.test", &e);
        int good = e == errors[tcp_mode] && !strcmp(text, e ? "" : all);
        check_at(__FILE__, __LINE__, good, "TCP mode");
        if (!good)
            fprintf(stderr, "  mode %d: error %d %s\n", tcp_mode, (int)e, text);
        if (!e)
            CHECK(fake.sockets == 2 && !fake.at[1].udp && fake.at[1].sent == 2);
        fake_end();
    }
    tcp_mode = 0;
    for (int chunk = 1; chunk < 1500; chunk += chunk < 700 ? 1 : 97) {
        fake_begin(serve_truncated);
        fake.chunk = chunk;
        CHECK(!strcmp(fake_resolve("a.test", &e), all) && !e);
        fake_end();
    }
}

/* One question's answer is truncated, the other's not. */
static void serve_v6_truncated(int fd, str query)
{
    if (query_type(query) == 28 && fake.at[fd].udp)
        fake_answer(fd, query, REPLY | TC, "", 1);
    else if (query_type(query) == 1 && fake.at[fd].udp)
        fake_answer(fd, query, REPLY, "", 1);
    else
        serve_both(fd, query);
}

static void serve_v6_cut(int fd, str query)
{
    query_type(query) == 28 ? fake_answer(fd, query, REPLY | TC, "", 1) : serve_both(fd, query);
}

static void test_dns_resolve_tcp_one(void)
{
    err e;
    fake_begin(serve_v6_cut); /* IPv4 is there: not worth a connection */
    CHECK(!strcmp(fake_resolve("a.test", &e), "192.0.2.1,192.0.2.2") && !e && fake.sockets == 1);
    fake_end();
    fake_begin(serve_v6_truncated);
    CHECK(!strcmp(fake_resolve("a.test", &e), "2001:db8::1") && !e);
    CHECK(fake.sockets == 2 && fake.at[1].sent == 1);
    fake_end();
}

/* The largest message that TCP can carry: 65,535 bytes. */
static void serve_largest(int fd, str query)
{
    static u8 message[70000];
    if (fake.at[fd].udp) {
        fake_answer(fd, query, REPLY | TC, "", 1);
        return;
    }
    unsigned type = query_type(query);
    iz n = make_message(message, (unsigned)(query.ptr[0] << 8 | query.ptr[1]), REPLY, "a.test",
                        type, "@ A 60 192.0.2.1");
    iz records = 1;
    for (; n + 16 <= 65535 - 12; records++, n += 16)
        memcpy(message + n, message + 24, 16);
    memcpy(message + n, "\xc0\x0c\0\20\0\1\0\0\0\0", 10); /* a TXT record fills up the rest */
    message[n + 10] = (u8)((65535 - n - 12) >> 8);
    message[n + 11] = (u8)(65535 - n - 12);
    records++;
    message[6] = (u8)(records >> 8);
    message[7] = (u8)records;
    fake_reply(fd, message, 65535, 1);
}

static void test_dns_resolve_tcp_largest(void)
{
    err e;
    fake_begin(serve_largest);
    fake.chunk = 1460;
    CHECK(!strncmp(fake_resolve("a.test", &e), "192.0.2.1,192.0.2.1,", 20) && !e);
    CHECK(fake.sockets == 2);
    fake_end();
}

/* The slow way through a hostile message: thousands of records, each with the longest way through
 * pointers, and a chain against its order. A bound on steps, not on time, so that it can be
 * counted on: it must come to its end at all within the test's patience. */
static void test_dns_parse_hostile(void)
{
    static u8 message[65536];
    dns_answer a;
    writer w = writer_of(message, 65535);
    put(&w, S("\0\7\x81\x80\0\1\0\0\0\0\0\0\1a\4test\0\0\1\0\1"));
    put(&w, S("\xc0\x0c\0\20\0\1\0\0\0\1"));
    put_be(&w, 2 * 126, 2);
    for (int i = 0; i < 126; i++)
        put_be(&w, 0xc000 | (u64)(i ? w.len - 2 : 12), 2);
    iz top = w.len - 2, records = 1;
    for (int k = 15; k >= 0; k--, records++) { /* n15 -> n16, …, a.test -> n1 */
        u8 name[4] = {2, 'n', (u8)('a' + k), 0};
        u8 next[4] = {2, 'n', (u8)('b' + k), 0};
        if (k)
            put(&w, (str){name, 4});
        else
            put_be(&w, 0xc00c, 2);
        put(&w, S("\0\5\0\1\0\0\0\1\0\4"));
        put(&w, (str){next, 4});
    }
    for (; w.len + 12 <= 65535; records++) {
        put_be(&w, 0xc000 | (u64)top, 2);
        put(&w, S("\0\20\0\1\0\0\0\1\0\0"));
    }
    message[6] = (u8)(records >> 8);
    message[7] = (u8)records;
    CHECK(records > 5000);
    CHECK(parse_tight(message, w.len, 7, "a.test", 1, &a) == E_DnsNoAddress);
}

/* ---- keeping ---- */

static int served_ttl;
static void serve_ttl(int fd, str query)
{
    char records[80];
    if (query_type(query) == 28) {
        serve_nothing(fd, query);
        return;
    }
    sprintf(records, "@ A %d 192.0.2.%d", served_ttl, fake.sockets);
    fake_answer(fd, query, REPLY, records, 0);
}

static const char *cached_resolve(const char *host)
{
    dns_answer a;
    CHECK(!dns_resolve(&fake_cache, unit_str(host), FOREVER, &a));
    return dns_text(&a);
}

static void test_dns_cache(void)
{
    static const int rows[][2] = {{1, 1}, {60, 60}, {300, 300}, {301, 300}, {86400, 300}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_begin(serve_ttl);
        memset(&fake_cache, 0, sizeof fake_cache);
        served_ttl = rows[i][0];
        CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.1"));
        i64 kept = fake.now;
        fake.hosts = "192.0.2.200 a.test\n"; /* comes too late: the answer is kept */
        CHECK(!strcmp(cached_resolve("A.TEST."), "192.0.2.1"));
        fake.now = kept + rows[i][1] * SECOND - 1;
        CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.1"));
        fake.now = kept + rows[i][1] * SECOND;
        fake.hosts = 0;
        CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.2"));
        fake_end();
    }
    fake_begin(serve_ttl); /* a TTL of 0 is not kept, and hosts are not */
    memset(&fake_cache, 0, sizeof fake_cache);
    served_ttl = 0;
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.1"));
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.2"));
    fake.hosts = "192.0.2.200 a.test\n";
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.200"));
    fake.hosts = 0;
    served_ttl = 100;
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.3"));
    /* forgetting */
    CHECK(!strcmp(cached_resolve("b.test"), "192.0.2.4"));
    dns_forget(&fake_cache, S("c.test"));
    dns_forget(&fake_cache, S("127.0.0.1"));
    dns_forget(&fake_cache, S(""));
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.3"));
    dns_forget(&fake_cache, S("A.test."));
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.5"));
    CHECK(!strcmp(cached_resolve("b.test"), "192.0.2.4"));
    /* four names are kept; a fifth takes the place of the one that runs out first */
    served_ttl = 50;
    CHECK(!strcmp(cached_resolve("c.test"), "192.0.2.6"));
    served_ttl = 200;
    CHECK(!strcmp(cached_resolve("d.test"), "192.0.2.7"));
    CHECK(!strcmp(cached_resolve("e.test"), "192.0.2.8"));
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.5"));
    CHECK(!strcmp(cached_resolve("b.test"), "192.0.2.4"));
    CHECK(!strcmp(cached_resolve("d.test"), "192.0.2.7"));
    CHECK(!strcmp(cached_resolve("e.test"), "192.0.2.8"));
    served_ttl = 0; /* what is not kept takes no place */
    CHECK(!strcmp(cached_resolve("f.test"), "192.0.2.9"));
    CHECK(!strcmp(cached_resolve("a.test"), "192.0.2.5"));
    CHECK(!strcmp(cached_resolve("b.test"), "192.0.2.4"));
    CHECK(!strcmp(cached_resolve("d.test"), "192.0.2.7"));
    CHECK(!strcmp(cached_resolve("e.test"), "192.0.2.8"));
    CHECK(!strcmp(cached_resolve("c.test"), "192.0.2.10"));
    fake_end();
    fake_begin(serve_no_such_name); /* what does not exist is asked for again */
    memset(&fake_cache, 0, sizeof fake_cache);
    dns_answer a;
    for (int i = 1; i <= 2; i++)
        CHECK(dns_resolve(&fake_cache, S("x.test"), FOREVER, &a) == E_DnsNoSuchName &&
              fake.sockets == i);
    fake_end();
}

/* ---- fuzzing ---- */

/* The first byte picks the function, the rest is its input, on the heap for AddressSanitizer. */
static void fuzz_dns(const u8 *data, iz n)
{
    if (n < 1)
        return;
    u8 pick = data[0], *tight = malloc((size_t)n);
    memcpy(tight, data + 1, (size_t)n - 1);
    str s = {tight, n - 1};
    dns_answer a, before;
    dns_name name, again;
    fresh_answer(&a);
    before = a;
    if (pick % 5 == 0) {
        a.count = dns_servers(s, a.at);
        invariant(a.count >= 1 && a.count <= 3 && a.at[0].port == 53);
    } else if (pick % 5 == 1) {
        dns_name_of(S("a.test"), &name);
        dns_hosts(s, &name, &a);
        invariant(a.count >= 0 && a.count <= DNS_ADDRESSES_MAX);
    } else if (pick % 5 == 2) {
        if (!address_of(s, &a.at[0])) { /* what is read, written and read is the same */
            a.count = 1;
            address back;
            invariant(!address_of(unit_str(dns_text(&a)), &back) && !memcmp(&back, &a.at[0], 17));
        }
        if (!dns_name_of(s, &name))
            invariant(name.len >= 3 && !name.bytes[name.len - 1]);
    } else { /* a reply: with the id and question that it claims */
        reader r = reader_of(s);
        u16 id = (u16)read_be(&r, 2);
        read_bytes(&r, reader_left(&r) < 10 ? 0 : 10);
        dns_read_name(&r, s, &name);
        u32 type = pick & 1 ? DNS_A : DNS_AAAA;
        if (!r.error) {
            again = name;
            err e = dns_parse(s, id, &name, type, &a);
            invariant(!e == (a.count > 0) && a.count <= DNS_ADDRESSES_MAX);
            invariant(!e || !memcmp(&a, &before, sizeof a));
            invariant(a.ttl >= 0 && a.ttl <= DNS_TTL_MAX && dns_name_eq(&name, &again));
            for (iz i = 0; i < a.count; i++)
                invariant(a.at[i].v6 == (type == DNS_AAAA));
        }
    }
    free(tight);
}

/* ---- sections 9 and 10: addresses and connections ---- */

static void test_addresses_of_hosts(void)
{
    static const struct {
        char host[24];
        u8 ip[4];
        int v6, good, loopback;
    } rows[] = {
        {"127.0.0.1", {127, 0, 0, 1}, 0, 1, 1},
        {"127.255.1.2", {127, 255, 1, 2}, 0, 1, 1},
        {"128.0.0.1", {128, 0, 0, 1}, 0, 1, 0},
        {"169.254.100.1", {169, 254, 100, 1}, 0, 1, 0},
        {"0.0.0.0", {0}, 0, 1, 0},
        {"255.255.255.255", {255, 255, 255, 255}, 0, 1, 0},
        {"localhost", {127, 0, 0, 1}, 0, 1, 1},
        {"LocalHost", {127, 0, 0, 1}, 0, 1, 1},
        {"[::1]", {0}, 1, 1, 1},
        {"256.0.0.1", {0}, 0, 0, 0},
        {"1.2.3", {0}, 0, 0, 0},
        {"1.2.3.4.5", {0}, 0, 0, 0},
        {"1.2.3.4.", {0}, 0, 0, 0},
        {".1.2.3.4", {0}, 0, 0, 0},
        {"1..3.4", {0}, 0, 0, 0},
        {"01.2.3.4", {0}, 0, 0, 0},
        {"1.2.3.04", {0}, 0, 0, 0},
        {"0x7f.0.0.1", {0}, 0, 0, 0},
        {"127.1", {0}, 0, 0, 0},
        {"2130706433", {0}, 0, 0, 0},
        {"1.2.3.4 ", {0}, 0, 0, 0},
        {"1.2.3.-4", {0}, 0, 0, 0},
        {"", {0}, 0, 0, 0},
        {"localhost.", {0}, 0, 0, 0},
        {"xlocalhost", {0}, 0, 0, 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        address to;
        err error = address_of(unit_str(rows[i].host), &to);
        b32 local = str_eq_nocase(unit_str(rows[i].host), S("localhost"));
        origin plain = {unit_str(rows[i].host), 80, 0}, safe = {unit_str(rows[i].host), 443, 1};
        CHECK_ROW((!error || local) == rows[i].good, rows[i].host);
        if (!error) {
            u8 expected[16] = {[15] = 1};
            memcpy(expected, rows[i].ip, rows[i].v6 ? 0 : 4);
            CHECK_ROW(!to.port && to.v6 == rows[i].v6, rows[i].host);
            CHECK_ROW(!memcmp(to.ip, expected, rows[i].v6 ? 16 : 4), rows[i].host);
        }
        CHECK_ROW(origin_is_safe(&plain) == rows[i].loopback && origin_is_safe(&safe),
                  rows[i].host);
    }
}

/* The hosted platform itself, on real sockets. */
static void test_platform_sockets(void)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof place;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(!bind(listener, (struct sockaddr *)&place, size) && !listen(listener, 5));
    CHECK(!getsockname(listener, (struct sockaddr *)&place, &size));
    script.on = 0;
    address to = {.ip = {127, 0, 0, 1}, .port = ntohs(place.sin_port)};
    i32 fd = -1;
    u8 buf[8];
    err error = E_None;
    i64 start = os_monotonic();
    CHECK(!os_connect(&fd, &to, 0, start + SECOND) && fd >= 0);
    int other = accept(listener, 0, 0);
    CHECK(os_recv(fd, buf, 8, os_monotonic() + 20 * MS, &error) == -1 && error == E_TimedOut);
    CHECK(os_monotonic() - start >= 20 * MS && os_monotonic() - start < 5 * SECOND);
    error = E_None;
    CHECK(!os_send(fd, S("ping"), FOREVER) && read(other, buf, 8) == 4 && !memcmp(buf, "ping", 4));
    CHECK(write(other, "pong", 4) == 4 && os_recv(fd, buf, 2, FOREVER, &error) == 2);
    CHECK(os_recv(fd, buf + 2, 6, FOREVER, &error) == 2 && !memcmp(buf, "pong", 4));
    close(other);
    CHECK(os_recv(fd, buf, 8, FOREVER, &error) == 0 && !error);
    os_close(fd);
    close(listener);
    CHECK(os_connect(&fd, &to, 0, os_monotonic() + SECOND) == E_ConnectRefused);
    start = os_monotonic();
    os_sleep(start + 2 * MS);
    CHECK(os_monotonic() >= start + 2 * MS && os_unix_ms() > 1577836800000);
}

/* What connections share, made anew. */
static network *unit_network(const char *const *env)
{
    static const char *const none[] = {0};
    static u8 memory[PROCESS_BYTES] __attribute__((aligned(16)));
    static arena process;
    static network net;
    if (!process.start)
        process = arena_of(memory, countof(memory));
    arena_reset(&process);
    net = (network){.process = &process, .env = env ? env : none};
    return &net;
}

static void unit_open(connection *c, i64 deadline)
{
    memset(c, 0, sizeof *c);
    connection_init(c, unit_network(0), (origin){S("127.0.0.1"), 8080, 0});
    CHECK(!connection_open(c, deadline));
}

static void test_connection_life(void)
{
    static connection c;
    script_start();
    script_add(S("hello"), THEN_MORE);
    script_add(S("world"), THEN_END);
    unit_open(&c, script.now + SECOND);
    CHECK(script.to.port == 8080 && script.to.ip[0] == 127 && !script.to.v6 && !c.kept);
    connection_send(&c, S("ping"));
    CHECK(unit_is(written(&script.sent), "ping") && !c.heard);
    CHECK(unit_is(connection_take(&c, 2), "he") && c.heard &&
          unit_is(connection_take(&c, 9), "llo"));
    CHECK(unit_is(connection_take(&c, 99), "world"));
    CHECK(!connection_take(&c, 1).len && !c.error && !connection_fill(&c));
    connection_close(&c);
    CHECK(c.fd == -1 && script.closes == 1);
    for (iz i = 0; i < CONNECTION_BUFFER; i++)
        if (c.buffer[i])
            CHECK(0);
    connection_close(&c);
    CHECK(script.closes == 1);
}

static void test_connection_errors(void)
{
    static const err results[] = {E_ConnectRefused, E_TimedOut, E_Unreachable, E_NetworkFailure};
    static connection c;
    for (iz i = 0; i < countof(results); i++) {
        script_start();
        script.connect[0] = results[i];
        i64 deadline = script.now + SECOND;
        memset(&c, 0, sizeof c);
        connection_init(&c, unit_network(0), (origin){S("127.0.0.1"), 1, 0});
        CHECK(connection_open(&c, deadline) == results[i] && c.fd == -1);
        connection_send(&c, S("x"));
        CHECK(c.error == results[i] && !script.sends && !connection_take(&c, 1).len);
        CHECK(script.now == (results[i] == E_TimedOut ? deadline : deadline - SECOND));
        CHECK(!connection_open(&c, deadline + SECOND) && !c.error);
    }
    script_start();
    script.send[0] = E_ConnectionReset;
    script_add(S("x"), THEN_END);
    unit_open(&c, script.now + SECOND);
    connection_send(&c, S("y"));
    CHECK(c.error == E_ConnectionReset && !connection_take(&c, 1).len);
    connection_close(&c);
    connection_init(&c, unit_network(0), (origin){S("example.com"), 80, 0});
    script.connect[1] = script.connect[2] = script.connect[3] = E_ConnectRefused;
    CHECK(connection_open(&c, script.now + SECOND) == E_ConnectRefused && script.connects == 4);
}

/* Is a file of that name mapped into this process? -1 if nobody knows. */
static int connection_mapped(const char *path)
{
    char row[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(row, sizeof row, maps))
        found |= strstr(row, path) != 0;
    return maps ? fclose(maps), found : -1;
}

/* Where no memory is left for an engine of TLS, the bundle is unmapped all the same. */
static void test_connection_memory(void)
{
    static connection c;
    u8 little[64];
    char path[] = "/tmp/skill-bundle-XXXXXX", variable[64];
    const char *env[] = {variable, 0};
    arena process = arena_of(little, countof(little));
    network net = {.process = &process, .env = env, .cpu_asked = 1};
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, "roots", 5) == 5);
    close(fd);
    snprintf(variable, sizeof variable, "SSL_CERT_FILE=%s", path);
    script.on = 0;
    str file = os_map(path);
    CHECK(connection_mapped(path) != 0);
    os_unmap(file);
    memset(&c, 0, sizeof c);
    connection_init(&c, &net, (origin){S("example.com"), 443, 1});
    connection_handshake(&c);
    CHECK(c.error == E_OutOfMemory && connection_mapped(path) != 1);
    unlink(path);
}

/* A kept connection has two seconds for its first byte, a fresh one the whole budget, and the
 * Runtime API's any time. */
static void test_connection_silence(void)
{
    static connection c;
    for (int kept = 0; kept < 2; kept++)
        for (int after = 0; after < 2; after++) {
            script_start();
            if (after)
                script_add(S("x"), THEN_MORE);
            script_add(S(""), THEN_SILENCE);
            i64 start = script.now;
            unit_open(&c, start + 5 * SECOND);
            c.kept = kept; /* as an answer would leave it */
            CHECK(!connection_open(&c, start + 5 * SECOND) && c.kept == kept);
            if (after)
                CHECK(unit_is(connection_take(&c, 9), "x"));
            CHECK(!connection_take(&c, 9).len && c.error == E_TimedOut);
            CHECK(script.now - start == (kept && !after ? 2 : 5) * SECOND);
            CHECK(script.connects == 1);
            connection_close(&c);
        }
    script_start();
    script_add(S("x"), THEN_END);
    script.piece[0].delay = 10 * 3600 * SECOND;
    unit_open(&c, FOREVER);
    c.kept = 1;
    CHECK(!connection_open(&c, FOREVER) && c.kept);
    CHECK(unit_is(connection_take(&c, 9), "x") && !script.faults);
    connection_close(&c);
    script_start();
    script_add(S("x"), THEN_END);
    script.piece[0].delay = 1999 * MS;
    unit_open(&c, script.now + 9 * SECOND);
    c.kept = 1;
    CHECK(!connection_open(&c, script.now + 9 * SECOND) && unit_is(connection_take(&c, 9), "x"));
    connection_close(&c);
}

/* Bytes that nobody asked for are no answer to the next request, and a kept connection that has
 * ended is not used again. */
static void test_connection_unasked(void)
{
    static connection c;
    for (int ended = 0; ended < 2; ended++) {
        script_start();
        script_add(ended ? S("") : S("stale"), THEN_END);
        script_add(S("fresh"), THEN_END);
        unit_open(&c, script.now + 5 * SECOND);
        script.early = 1;
        CHECK(!connection_open(&c, script.now + 5 * SECOND) && !c.kept);
        script.early = 0;
        CHECK(script.connects == 2 && script.closes == 1);
        CHECK(unit_is(connection_take(&c, 9), "fresh"));
        connection_close(&c);
    }
}

/* The deadline ends a flow of bytes that never pauses. */
static void test_connection_flow(void)
{
    static connection c;
    script_start();
    script.most = 1;
    script_add(S("abc"), THEN_MORE);
    unit_open(&c, script.now + SECOND);
    CHECK(unit_is(connection_take(&c, 9), "a"));
    script.now += SECOND;
    CHECK(!connection_take(&c, 9).len && c.error == E_TimedOut);
    connection_close(&c);
}

/* ---- section 11: HTTP/1.1 ---- */

enum { UNIT_BODY_MAX = 5000 };

/* What came of one answer. */
typedef struct {
    err error;
    i32 status;
    b32 closed, rest; /* the connection was closed; bytes are left that nobody read */
    u8 body[UNIT_BODY_MAX];
    iz body_len;
} unit_answer;

/* Reads the answer that the script holds. */
static unit_answer *unit_read(b32 until_close, iz max)
{
    static connection c;
    static unit_answer result;
    http_response r;
    unit_open(&c, script.now + SECOND);
    err error = http_read(&c, unit_arena(), max, until_close, &r);
    result = (unit_answer){.error = error, .status = r.status, .closed = c.fd < 0};
    invariant(r.body.len <= UNIT_BODY_MAX || error);
    if (!error) {
        copy(result.body, r.body.ptr, r.body.len);
        result.body_len = r.body.len;
    }
    result.rest = script.stream[0].at + 1 < script.stream[0].end ||
                  script.stream[0].taken < script.piece[script.pieces - 1].bytes.len;
    connection_close(&c);
    return &result;
}

/* The same bytes in pieces that end where `cut` and `cut2` say, or of `most` bytes. */
static unit_answer *unit_read_cut(str text, iz cut, iz most, b32 until_close)
{
    script_start();
    script.most = most;
    if (cut)
        script_add(str_span(text, 0, cut), THEN_MORE);
    script_add(str_from(text, cut), THEN_END);
    return unit_read(until_close, UNIT_BODY_MAX);
}

typedef struct {
    const char *text;
    iz len;
    i32 status;
    const char *body;
    int kept; /* the connection serves another request */
} unit_good_answer;

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"

static const unit_good_answer unit_good_answers[] = {
    {BYTES(OK "Content-Length: 5\r\n\r\nhello"), 200, "hello", 1},
    {BYTES(OK "content-LENGTH:5\r\n\r\nhello"), 200, "hello", 1},
    {BYTES(OK "Content-Length: \t 5 \t \r\n\r\nhello"), 200, "hello", 1},
    {BYTES(OK "Content-Length: 005\r\n\r\nhello"), 200, "hello", 1},
    {BYTES(OK "Content-Length: 0\r\n\r\n"), 200, "", 1},
    {BYTES(OK "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 200, "abc", 1},
    {BYTES(OK "X-Content-Length: 9\r\nContent-Length-X: 8\r\nContent-Length: 2\r\n\r\nhi"), 200,
     "hi", 1},
    {BYTES(OK
           "Empty:\r\nLatin: caf\xe9 \"q\"\r\n!#$%&'*+-.^_`|~1: x\r\nContent-Length: 1\r\n\r\nx"),
     200, "x", 1},
    {BYTES("HTTP/1.1 404 Not Found here\r\nContent-Length: 2\r\n\r\nno"), 404, "no", 1},
    {BYTES("HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n"), 500, "", 1},
    {BYTES("HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n"), 599, "", 1},
    {BYTES("HTTP/1.1 200 caf\xc3\xa9\tx\r\nContent-Length: 0\r\n\r\n"), 200, "", 1},
    {BYTES("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 0},
    {BYTES("HTTP/1.2 200 OK\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 1},
    {BYTES(OK "Connection: close\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 0},
    {BYTES(OK "Connection: foo , CLOSE\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 0},
    {BYTES(OK "Connection: keep-alive\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 1},
    {BYTES(OK "Connection: closed\r\nContent-Length: 1\r\n\r\nx"), 200, "x", 1},
    {BYTES(OK "\r\nread to close"), 200, "read to close", 0},
    {BYTES(OK "\r\n"), 200, "", 0},
    {BYTES("HTTP/1.0 200 OK\r\n\r\nold\r\n"), 200, "old\r\n", 0},
    {BYTES("HTTP/1.1 204 No Content\r\n\r\n"), 204, "", 1},
    {BYTES("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), 304, "", 1},
    {BYTES(CHUNKED "5\r\nhello\r\n0\r\n\r\n"), 200, "hello", 1},
    {BYTES(CHUNKED "0\r\n\r\n"), 200, "", 1},
    {BYTES(OK "transfer-encoding:CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 200, "abc", 1},
    {BYTES(CHUNKED "1\r\na\r\nC\r\n0123456789\n\r\r\n00c\r\nABCDEFGHIJKL\r\n000\r\n\r\n"), 200,
     "a0123456789\n\rABCDEFGHIJKL", 1},
    {BYTES(CHUNKED "3;a\r\nabc\r\n2;b=c;d=\"e;f\"\r\nde\r\n0;x\r\n\r\n"), 200, "abcde", 1},
    {BYTES(CHUNKED "3 ; a = b\r\nabc\r\n0 \t;\r\n\r\n"), 200, "abc", 1},
    {BYTES(CHUNKED "3\r\nabc\r\n0\r\nTrailer: x\r\nContent-Length: 99\r\n\r\n"), 200, "abc", 1},
    {BYTES("HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\nx"), 200, "x", 1},
    {BYTES("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nContent-Length: 7\r\n\r\n"
           "HTTP/1.1 102 Processing\r\n\r\n" OK "Content-Length: 1\r\n\r\nx"),
     200, "x", 1},
    {BYTES("HTTP/1.1 100 C\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" OK
           "Content-Length: 1\r\n\r\nx"),
     200, "x", 1},
};

static void unit_check_answer(const unit_good_answer *row, const unit_answer *a)
{
    b32 good = !a->error && a->status == row->status && a->closed == !row->kept && !a->rest &&
               unit_is((str){a->body, a->body_len}, row->body) && !script.faults;
    if (!good)
        CHECK_ROW(good, row->text);
}

static void test_http_accepted(void)
{
    for (iz i = 0; i < countof(unit_good_answers); i++) {
        const unit_good_answer *row = &unit_good_answers[i];
        str text = {(const u8 *)row->text, row->len};
        iz before = failed;
        for (iz cut = 0; cut < text.len; cut++)
            unit_check_answer(row, unit_read_cut(text, cut, 0, 1));
        for (iz most = 1; most < 8; most++)
            unit_check_answer(row, unit_read_cut(text, 0, most, 1));
        CHECK_ROW(failed == before, row->text);
    }
}

/* An answer that ends too early is an error at each place, and never kept. */
static void test_http_truncated(void)
{
    static const script_then ends[] = {THEN_END, THEN_RESET, THEN_SILENCE};
    static const err errors[] = {E_HttpTruncated, E_ConnectionReset, E_TimedOut};
    for (iz i = 0; i < countof(unit_good_answers); i++) {
        const unit_good_answer *row = &unit_good_answers[i];
        str text = {(const u8 *)row->text, row->len};
        iz head = unit_index(text, "\r\n\r\n", 0) + 4, wrong = 0;
        b32 to_close = !row->kept && !unit_has(text, "Content-Length");
        for (iz n = 0; n < text.len; n++)
            for (iz k = 0; k < countof(ends); k++) {
                script_start();
                script_add(str_span(text, 0, n), ends[k]);
                i64 deadline = script.now + SECOND;
                unit_answer *a = unit_read(1, UNIT_BODY_MAX);
                err expected = !n && ends[k] == THEN_END ? E_ConnectionClosed : errors[k];
                if (to_close && ends[k] == THEN_END && n >= head)
                    expected = E_None;
                wrong += a->error != expected || !a->closed || script.faults;
                wrong += ends[k] == THEN_SILENCE && script.now != deadline;
            }
        CHECK_ROW(!wrong, row->text);
    }
}

typedef struct {
    const char *text;
    iz len;
    err error;
} unit_bad_answer;

#define END "\r\n\r\n"
#define SIZED "\r\nContent-Length: 0\r\n\r\n"
#define EMPTY OK "Content-Length: 0\r\n\r\n"

static const unit_bad_answer unit_bad_answers[] = {
    {BYTES("HTTP/2 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/2.0 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/0.9 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("http/1.1 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.x 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.11 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1  200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1\t200 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 20 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 2000 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 2x0 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 -20 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 099 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 600 OK" SIZED), E_HttpStatusLine},
    {BYTES("HTTP/1.1 200OK" SIZED), E_HttpStatusLine},
    {BYTES(" HTTP/1.1 200 OK" SIZED), E_HttpStatusLine},
    {BYTES("\r\n" OK SIZED), E_HttpStatusLine},
    {BYTES("<html>Bad gateway</html>"), E_HttpStatusLine},
    {BYTES("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), E_HttpLineEnd},
    {BYTES("HTTP/1.1 200 OK\rX" SIZED), E_HttpLineEnd},
    {BYTES("HTTP/1.1 200 O\0K" SIZED), E_HttpLineEnd},
    {BYTES("HTTP/1.1 200 O\x7fK" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\nContent-Length: 0" END), E_HttpLineEnd},
    {BYTES(OK "A: b\rc" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\r\r\n" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\0c" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\x01" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\x1b" SIZED), E_HttpLineEnd},
    {BYTES(OK "A: b\x7f" SIZED), E_HttpLineEnd},
    {BYTES(OK "Content-Length: 0\r\n\rX\n"), E_HttpLineEnd},
    {BYTES(OK "A: b\r\n c" SIZED), E_HttpHeader},
    {BYTES(OK "A: b\r\n\tc" SIZED), E_HttpHeader},
    {BYTES(OK " A: b" SIZED), E_HttpHeader},
    {BYTES(OK "A : b" SIZED), E_HttpHeader},
    {BYTES(OK "Content-Length : 0" END), E_HttpHeader},
    {BYTES(OK "A\t: b" SIZED), E_HttpHeader},
    {BYTES(OK ": b" SIZED), E_HttpHeader},
    {BYTES(OK "A" SIZED), E_HttpHeader},
    {BYTES(OK "A b: c" SIZED), E_HttpHeader},
    {BYTES(OK "A\0: c" SIZED), E_HttpHeader},
    {BYTES(OK "(A): c" SIZED), E_HttpHeader},
    {BYTES(OK "A\xe9: c" SIZED), E_HttpHeader},
    {BYTES(OK "A\nB: c" SIZED), E_HttpHeader},
    {BYTES(OK "Content-Length: 5\r\nContent-Length: 6" END "hello!"), E_HttpLength},
    {BYTES(OK "Content-Length: 5, 5" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 5, 6" END "hello!"), E_HttpLength},
    {BYTES(OK "Content-Length: -1" END), E_HttpLength},
    {BYTES(OK "Content-Length: +5" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 5.0" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 0x5" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 1 1" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length:" END), E_HttpLength},
    {BYTES(OK "Content-Length: five" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 18446744073709551621" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 99999999999999999999999" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 9223372036854775813" END "hello"), E_HttpLength},
    {BYTES(OK "Content-Length: 5\r\nTransfer-Encoding: chunked" END "0" END), E_HttpLength},
    {BYTES(OK "Transfer-Encoding: chunked\r\nContent-Length: 5" END "0" END), E_HttpLength},
    {BYTES(OK "Transfer-Encoding: gzip" END "x"), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: gzip, chunked" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: chunked, gzip" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: chunked, chunked" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: chunked;q=1" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: identity" END "x"), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: xchunked" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding:" END "0" END), E_HttpTransferEncoding},
    {BYTES(OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" END "0" END),
     E_HttpTransferEncoding},
    {BYTES("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked" END "0" END), E_HttpTransferEncoding},
    {BYTES(CHUNKED "\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "x\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "-1\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "+3\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED " 3\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED ";a\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "0x3\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "3 4\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "3,\r\nabc"), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nabcd\r\n0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nabc0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nabc\n0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nabc\r0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nab\r\n0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\r\nabc\r\n\r\n0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\nabc\r\n0" END), E_HttpChunk},
    {BYTES(CHUNKED "3\rabc\r\n0" END), E_HttpLineEnd},
    {BYTES(CHUNKED "3;a\nabc\r\n0" END), E_HttpLineEnd},
    {BYTES(CHUNKED "3;a\0\r\nabc\r\n0" END), E_HttpLineEnd},
    {BYTES(CHUNKED "3;a\rabc\r\n0" END), E_HttpLineEnd},
    {BYTES(CHUNKED "0\r\nA b: c\r\n\r\n"), E_HttpHeader},
    {BYTES(CHUNKED "0\r\n A: c\r\n\r\n"), E_HttpHeader},
    {BYTES(CHUNKED "0\r\nA: c\n\n"), E_HttpLineEnd},
    {BYTES(CHUNKED "10000000000000000\r\nabc"), E_HttpChunkSize},
    {BYTES(CHUNKED "10000000000000003\r\nabc\r\n0" END), E_HttpChunkSize},
    {BYTES(CHUNKED "ffffffffffffffff\r\nabc"), E_HttpChunkSize},
    {BYTES(CHUNKED "8000000000000003\r\nabc"), E_HttpChunkSize},
    {BYTES(CHUNKED "100000003\r\nabc"), E_HttpBodyTooLarge},
    {BYTES(CHUNKED "1389\r\nabc"), E_HttpBodyTooLarge},
    {BYTES(CHUNKED "3\r\nabc\r\n1386\r\nabc"), E_HttpBodyTooLarge},
    {BYTES(OK "Content-Length: 5001" END "x"), E_HttpBodyTooLarge},
    {BYTES(OK "Content-Length: 9223372036854775807" END "x"), E_HttpBodyTooLarge},
    {BYTES("HTTP/1.1 101 Switching Protocols" END), E_HttpInterim},
    {BYTES("HTTP/1.1 101 Switching Protocols" END OK SIZED), E_HttpInterim},
};

/* A size of 2^63 or over may be called too large in either way. */
static b32 unit_same_refusal(err got, err expected)
{
    b32 sizes = expected == E_HttpBodyTooLarge || expected == E_HttpLength;
    return got == expected || (sizes && (got == E_HttpBodyTooLarge || got == E_HttpLength));
}

static void test_http_refused(void)
{
    for (iz i = 0; i < countof(unit_bad_answers); i++) {
        str text = {(const u8 *)unit_bad_answers[i].text, unit_bad_answers[i].len};
        char row[200];
        unit_answer *a = unit_read_cut(text, 0, 0, 1);
        err error = a->error;
        unit_print(row, sizeof row, "%ld: %.120s: %s", (long)i, unit_bad_answers[i].text,
                   unit_error(error));
        CHECK_ROW(unit_same_refusal(error, unit_bad_answers[i].error) && a->closed, row);
        iz wrong = 0;
        for (iz cut = 0; cut < text.len; cut++)
            wrong += unit_read_cut(text, cut, 0, 1)->error != error;
        for (iz most = 1; most < 4; most++)
            wrong += unit_read_cut(text, 0, most, 0)->error != error;
        CHECK_ROW(!wrong && !script.faults, row);
    }
}

/* The Runtime API tells a length always: reading to the close would hang there. */
static void test_http_without_length(void)
{
    CHECK(unit_read_cut(S(OK "\r\nabc"), 0, 0, 0)->error == E_HttpNoLength);
    CHECK(unit_read_cut(S("HTTP/1.1 204 x" END), 0, 0, 0)->error == E_None);
    CHECK(unit_read_cut(S(CHUNKED "0" END), 0, 0, 0)->error == E_None);
    static u8 text[2 * UNIT_BODY_MAX];
    iz n = sprintf((char *)text, OK "\r\n");
    memset(text + n, 'x', UNIT_BODY_MAX + 1);
    unit_answer *a = unit_read_cut((str){text, n + UNIT_BODY_MAX}, 0, 0, 1);
    CHECK(!a->error && a->body_len == UNIT_BODY_MAX);
    a = unit_read_cut((str){text, n + UNIT_BODY_MAX + 1}, 0, 0, 1);
    CHECK(a->error == E_HttpBodyTooLarge && a->closed);
}

/* Bytes behind an answer belong to no request: they are not taken for the next answer. */
static void test_http_leftover(void)
{
    static const unit_bad_answer rows[] = {
        {BYTES(OK "Content-Length: 1" END "xy"), E_None},
        {BYTES("HTTP/1.1 204 x" END "y"), E_None},
        {BYTES("HTTP/1.1 304 x\r\nContent-Length: 1" END "y"), E_None},
        {BYTES(CHUNKED "0" END "y"), E_None},
    };
    for (iz i = 0; i < countof(rows); i++) {
        unit_answer *a = unit_read_cut((str){(const u8 *)rows[i].text, rows[i].len}, 0, 0, 1);
        CHECK_ROW(!a->error && a->closed, rows[i].text);
    }
}

/* One generated head: a status line, lines of the sizes given, and an end. */
static unit_answer *unit_read_lines(iz status_size, iz name_size, iz value_size, iz count)
{
    static u8 text[1 << 20];
    writer w = writer_of(text, countof(text));
    put(&w, S("HTTP/1.1 200 "));
    while (w.len < status_size)
        put_byte(&w, 'r');
    put(&w, S("\r\n"));
    for (iz i = 0; i < count; i++) {
        for (iz k = 0; k < name_size; k++)
            put_byte(&w, 'N');
        put_byte(&w, ':');
        for (iz k = 0; k < value_size; k++)
            put_byte(&w, 'v');
        put(&w, S("\r\n"));
    }
    put(&w, S("Content-Length: 1\r\n\r\nx"));
    return unit_read_cut(written(&w), 0, 0, 1);
}

static void test_http_limits(void)
{
    CHECK(!unit_read_lines(8192, 0, 0, 0)->error);
    CHECK(unit_read_lines(8193, 0, 0, 0)->error == E_HttpLineTooLong);
    CHECK(!unit_read_lines(0, 1, 8190, 1)->error);
    CHECK(unit_read_lines(0, 1, 8191, 1)->error == E_HttpLineTooLong);
    CHECK(!unit_read_lines(0, 8191, 0, 1)->error);
    CHECK(unit_read_lines(0, 8192, 0, 1)->error == E_HttpLineTooLong);
    CHECK(unit_read_lines(0, 8193, 0, 1)->error == E_HttpLineTooLong);
    CHECK(unit_read_lines(0, 20000, 0, 1)->error == E_HttpLineTooLong);
    CHECK(!unit_read_lines(0, 1, 1, 99)->error); /* with Content-Length a hundred */
    CHECK(unit_read_lines(0, 1, 1, 100)->error == E_HttpTooManyHeaders);
    CHECK(!unit_read_lines(0, 10, 1000, 32)->error);
    CHECK(unit_read_lines(0, 10, 1000, 33)->error == E_HttpHeadTooLong);
}

/* Limits of what comes in lines behind the head: chunk lines, trailers, interim answers. */
static unit_answer *unit_read_repeated(const char *start, const char *again, iz count,
                                       const char *end)
{
    static u8 text[1 << 17];
    writer w = writer_of(text, countof(text));
    put(&w, unit_str(start));
    for (iz i = 0; i < count; i++)
        put(&w, unit_str(again));
    put(&w, unit_str(end));
    return unit_read_cut(written(&w), 0, 0, 1);
}

static void test_http_limits_behind_the_head(void)
{
    CHECK(!unit_read_repeated(CHUNKED "3;", "x", 8190, "\r\nabc\r\n0" END)->error);
    CHECK(unit_read_repeated(CHUNKED "3;", "x", 8191, "\r\nabc\r\n0" END)->error ==
          E_HttpLineTooLong);
    CHECK(!unit_read_repeated(CHUNKED, "0", 8191, "1\r\na\r\n0" END)->error);
    CHECK(unit_read_repeated(CHUNKED, "0", 9000, "1\r\na\r\n0" END)->error);
    CHECK(unit_read_repeated(CHUNKED "3", " ", 9000, "\r\nabc\r\n0" END)->error ==
          E_HttpLineTooLong);
    CHECK(!unit_read_repeated(CHUNKED "0\r\n", "A: b\r\n", 99, "\r\n")->error);
    CHECK(unit_read_repeated(CHUNKED "0\r\n", "A: b\r\n", 101, "\r\n")->error ==
          E_HttpTooManyHeaders);
    CHECK(!unit_read_repeated("", "HTTP/1.1 100 C" END, 8, EMPTY)->error);
    CHECK(unit_read_repeated("", "HTTP/1.1 100 C" END, 9, EMPTY)->error == E_HttpInterim);
    CHECK(unit_read_repeated(CHUNKED, "1\r\nx\r\n", 4999, "0" END)->body_len == 4999);
    CHECK(!unit_read_repeated(CHUNKED, "1\r\nx\r\n", 5000, "0" END)->error);
    CHECK(unit_read_repeated(CHUNKED, "1\r\nx\r\n", 5001, "0" END)->error == E_HttpBodyTooLarge);
}

/* A body of which only a part fits the arena is refused, and the arena serves again. */
static void test_http_without_memory(void)
{
    static const char texts[][64] = {OK "Content-Length: 4000" END, CHUNKED "fa0\r\n", OK "\r\n"};
    static u8 body[5000];
    static connection c;
    memset(body, 'x', sizeof body);
    for (iz i = 0; i < countof(texts); i++) {
        arena *a = unit_small_arena(3000);
        http_response r;
        script_start();
        script_add(unit_str(texts[i]), THEN_MORE);
        script_add((str){body, 4000}, THEN_MORE);
        script_add(i == 1 ? S("\r\n0\r\n\r\n") : S(""), THEN_END);
        unit_open(&c, script.now + SECOND);
        CHECK(http_read(&c, a, 5000, 1, &r) && c.fd == -1);
        arena_reset(a);
    }
}

/* An interim head or blanks at a line's end leave nothing behind in the arena. */
static void test_http_leaves_clean_memory(void)
{
    static u8 text[20000];
    static connection c;
    for (int round = 0; round < 2; round++) {
        iz n = sprintf((char *)text,
                       round ? OK "Content-Length: 0\r\nA: b" : "HTTP/1.1 103 x\r\nA: b");
        memset(text + n, round ? ' ' : 'A', 7000);
        n += 7000;
        n += sprintf((char *)text + n, "%s", round ? END : END EMPTY);
        arena *a = unit_arena();
        http_response r;
        script_start();
        script_add((str){text, n}, THEN_MORE);
        unit_open(&c, script.now + SECOND);
        CHECK(!http_read(&c, a, 100, 1, &r));
        u8 *p = arena_new(a, u8, 9000);
        iz dirt = 0;
        for (iz i = 0; i < 9000; i++)
            dirt += p[i] != 0;
        CHECK(!dirt);
        connection_close(&c);
    }
}

/* Received byte by byte nothing is taken before it is wanted, so that what is left is seen. */
static int vector_http(str response, str body, i32 status, int expect_valid)
{
    static connection c;
    b32 good = 0;
    iz valid = 0;
    for (iz most = 0; most < 2; most++) {
        http_response r;
        script_start();
        script.most = most;
        script_add(response, THEN_END);
        unit_open(&c, script.now + SECOND);
        good = !http_read(&c, unit_arena(), UPSTREAM_BODY_MAX, 1, &r) && r.status == status &&
               str_eq(r.body, body) && script.stream[0].taken == response.len;
        valid += good;
        connection_close(&c);
    }
    script.on = 0;
    return expect_valid ? valid == 2 : !good; /* byte by byte nothing is taken that is not read */
}

static void test_http_vectors(void)
{
    for (iz i = 0; i < countof(unit_good_answers); i++) {
        const unit_good_answer *row = &unit_good_answers[i];
        str text = {(const u8 *)row->text, row->len};
        CHECK_ROW(vector_http(text, unit_str(row->body), row->status, 1), row->text);
        CHECK_ROW(vector_http(text, S("other"), row->status, 0), row->text);
        CHECK_ROW(vector_http(text, unit_str(row->body), row->status + 1, 0), row->text);
    }
    CHECK(vector_http(S(OK "Content-Length: 1" END "xy"), S("x"), 200, 0));
    CHECK(vector_http(S(CHUNKED "0" END "\r\n"), S(""), 200, 0));
    CHECK(vector_http(S("HTTP/1.1 204 x" END "y"), S(""), 204, 0));
    for (iz i = 0; i < countof(unit_bad_answers); i++) {
        str text = {(const u8 *)unit_bad_answers[i].text, unit_bad_answers[i].len};
        if (unit_bad_answers[i].error != E_HttpBodyTooLarge)
            CHECK_ROW(vector_http(text, S(""), 200, 0), unit_bad_answers[i].text);
    }
}

static void fuzz_http(const u8 *data, iz n)
{
    static unit_answer first;
    iz cut = n ? data[0] % n : 0;
    first = *unit_read_cut((str){data, n}, 0, 0, 1);
    unit_answer *second = unit_read_cut((str){data, n}, cut, 0, 1);
    if (first.error != second->error || first.body_len != second->body_len || script.faults)
        abort();
    second = unit_read_cut((str){data, n}, 0, 1, 1);
    if (first.error != second->error || memcmp(first.body, second->body, sizeof first.body))
        abort();
    if (!first.error && first.status < 200)
        abort();
    script.on = 0;
}

static void test_http_headers(void)
{
    http_response r = {.head = S("a:1\nab:2\nlambda-runtime-trace-id:x:y\na:3\nempty:\n")};
    CHECK(unit_is(http_header(&r, "a"), "1") && unit_is(http_header(&r, "ab"), "2"));
    CHECK(unit_is(http_header(&r, "lambda-runtime-trace-id"), "x:y"));
    CHECK(http_header(&r, "empty").ptr && !http_header(&r, "empty").len);
    CHECK(!http_header(&r, "b").ptr && !http_header(&r, "lambda-runtime").ptr);
    static const struct {
        char head[40];
        i64 wait;
    } rows[] = {
        {"", -1},
        {"retry-after:0\n", 0},
        {"retry-after:1\n", SECOND},
        {"retry-after:120\n", 120 * SECOND},
    };
    for (iz i = 0; i < countof(rows); i++) {
        r.head = unit_str(rows[i].head);
        CHECK_ROW(http_retry_after(&r, -1) == rows[i].wait, rows[i].head);
    }
    r.head = S("retry-after:Fri, 31 Dec 1999 23:59:59 GMT\n"); /* never sooner than asked */
    CHECK(http_retry_after(&r, -1) > 60 * SECOND);
    r.head = S("retry-after:999999999999999999999\n");
    CHECK(http_retry_after(&r, -1) > 60 * SECOND);
    r.head = S("retry-after:-1\n");
    CHECK(http_retry_after(&r, -1) != -SECOND);
}

static void test_url_parse(void)
{
    static const struct {
        char text[48];
        int bare, good, https, port;
        char host[24], path[16];
    } rows[] = {
        {"http://127.0.0.1", 0, 1, 0, 80, "127.0.0.1", ""},
        {"http://127.0.0.1/", 0, 1, 0, 80, "127.0.0.1", ""},
        {"http://127.0.0.1:8080/a/b", 0, 1, 0, 8080, "127.0.0.1", "/a/b"},
        {"http://localhost:1/a/b//", 0, 1, 0, 1, "localhost", "/a/b"},
        {"https://api.tfl.gov.uk/", 0, 1, 1, 443, "api.tfl.gov.uk", ""},
        {"https://api.tfl.gov.uk:65535", 0, 1, 1, 65535, "api.tfl.gov.uk", ""},
        {"https://[::1]:8443/x", 0, 1, 1, 8443, "[::1]", "/x"},
        {"http://[::1]", 0, 1, 0, 80, "[::1]", ""},
        {"https://http/http://x", 0, 1, 1, 443, "http", "/http://x"},
        {"127.0.0.1:9001", 1, 1, 0, 9001, "127.0.0.1", ""},
        {"localhost", 1, 1, 0, 80, "localhost", ""},
        {"[::1]:9001", 1, 1, 0, 9001, "[::1]", ""},
        {"http-proxy:9001", 1, 1, 0, 9001, "http-proxy", ""},
        {"http://127.0.0.1:9001/base/path", 1, 1, 0, 9001, "127.0.0.1", "/base/path"},
        {"127.0.0.1:9001", 0, 0, 0, 0, "", ""},
        {"", 0, 0, 0, 0, "", ""},
        {"", 1, 0, 0, 0, "", ""},
        {"/", 1, 0, 0, 0, "", ""},
        {"http:", 0, 0, 0, 0, "", ""},
        {"http:/", 0, 0, 0, 0, "", ""},
        {"http:/", 1, 0, 0, 0, "", ""},
        {"http/", 1, 1, 0, 80, "http", ""},
        {"https:/", 1, 0, 0, 0, "", ""},
        {"http://", 0, 0, 0, 0, "", ""},
        {"http://", 1, 0, 0, 0, "", ""},
        {"https://", 1, 0, 0, 0, "", ""},
        {"http:///path", 0, 0, 0, 0, "", ""},
        {"http://:80", 0, 0, 0, 0, "", ""},
        {"ftp://127.0.0.1", 0, 0, 0, 0, "", ""},
        {"ftp://127.0.0.1", 1, 0, 0, 0, "", ""},
        {"http://a:0", 0, 0, 0, 0, "", ""},
        {"http://a:65536", 0, 0, 0, 0, "", ""},
        {"http://a:", 0, 0, 0, 0, "", ""},
        {"http://a:8o", 0, 0, 0, 0, "", ""},
        {"http://a:-1", 0, 0, 0, 0, "", ""},
        {"http://a:1:2", 0, 0, 0, 0, "", ""},
        {"http://[::1", 0, 0, 0, 0, "", ""},
        {"http://[::1]x", 0, 0, 0, 0, "", ""},
        {"http://user@a", 0, 0, 0, 0, "", ""},
        {"http://user:pw@a", 0, 0, 0, 0, "", ""},
        {"http://a/?q=1", 0, 0, 0, 0, "", ""},
        {"http://a?q=1", 0, 0, 0, 0, "", ""},
        {"http://a/#f", 0, 0, 0, 0, "", ""},
        {"http://a b/", 0, 0, 0, 0, "", ""},
        {"http://a/\r\nX: y", 0, 0, 0, 0, "", ""},
        {"http://a/\xc3\xa9", 0, 0, 0, 0, "", ""},
        {" http://a", 0, 0, 0, 0, "", ""},
    };
    for (iz i = 0; i < countof(rows); i++) {
        url u;
        err error = url_parse(unit_str(rows[i].text), rows[i].bare, &u);
        /* a host that is no host may also be refused when it is asked for */
        if (!error && !rows[i].good) {
            dns_name name;
            address to;
            error = address_of(u.origin.host, &to) && dns_name_of(u.origin.host, &name)
                        ? E_NameInvalid
                        : E_None;
        }
        CHECK_ROW((error == E_None) == rows[i].good, rows[i].text);
        if (rows[i].good && !error)
            CHECK_ROW(u.origin.https == rows[i].https && u.origin.port == rows[i].port &&
                          unit_is(u.origin.host, rows[i].host) && unit_is(u.path, rows[i].path),
                      rows[i].text);
    }
    static char text[2000] = "http://a/";
    url u; /* not of a form that is told of, but then not the host "oxy" either */
    CHECK(url_parse(S("http-proxy:9001/x"), 1, &u) || unit_is(u.origin.host, "http-proxy"));
    memset(text + 9, 'x', URL_MAX - 9);
    CHECK(!url_parse((str){(u8 *)text, URL_MAX}, 0, &u));
    text[URL_MAX] = 'x';
    CHECK(url_parse((str){(u8 *)text, URL_MAX + 1}, 0, &u) == E_UrlMalformed);
}

static void test_http_requests(void)
{
    static const struct {
        char base[40], expected[160];
    } rows[] = {
        {"http://127.0.0.1:8080", "GET /a?q=%C3%A9 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"},
        {"http://127.0.0.1/", "GET /a?q=%C3%A9 HTTP/1.1\r\nHost: 127.0.0.1\r\n"},
        {"http://[::1]:81/b", "GET /b/a?q=%C3%A9 HTTP/1.1\r\nHost: [::1]:81\r\n"},
        {"https://x.y/b/c/", "GET /b/c/a?q=%C3%A9 HTTP/1.1\r\nHost: x.y\r\n"},
        {"https://x.y:80/b", "GET /b/a?q=%C3%A9 HTTP/1.1\r\nHost: x.y:80\r\n"},
    };
    u8 buf[2000];
    for (iz i = 0; i < countof(rows); i++) {
        url u;
        writer w = writer_of(buf, countof(buf));
        CHECK(!url_parse(unit_str(rows[i].base), 0, &u));
        http_put_start(&w, "GET ", &u);
        put(&w, S("a?q="));
        http_put_encoded(&w, S("\xc3\xa9"));
        http_put_origin(&w, &u.origin);
        http_put_end(&w, (str){0, 0});
        CHECK_ROW(!w.error && str_starts(written(&w), unit_str(rows[i].expected)), rows[i].base);
        CHECK_ROW(unit_count(written(&w), "\r\n\r\n") == 1 && str_ends(written(&w), S("\r\n\r\n")),
                  rows[i].base);
        CHECK_ROW(unit_count(written(&w), "User-Agent: ") == 1, rows[i].base);
        CHECK_ROW(!unit_has(written(&w), "User-Agent: \r\n"), rows[i].base);
        CHECK_ROW(!unit_has(written(&w), "Content-"), rows[i].base);
    }
    writer w = writer_of(buf, countof(buf));
    http_put_end(&w, S("{\"a\":1}"));
    CHECK(unit_is(written(&w), "Content-Type: application/json\r\nContent-Length: 7\r\n\r\n"
                               "{\"a\":1}"));
}

static void test_http_unsafe_values(void)
{
    u8 buf[2000];
    for (int c = 0; c < 256; c++) {
        u8 value[] = {'a', (u8)c, 'b'};
        b32 visible = c > ' ' && c < 0x7f;
        writer w = writer_of(buf, countof(buf));
        http_put(&w, (str){value, 3});
        CHECK((w.error == E_None) == visible && (visible || w.error == E_HttpRequestUnsafe));
        w = writer_of(buf, countof(buf));
        http_put_header(&w, "X: ", (str){value, 3});
        CHECK((w.error == E_None) == visible);
        char expected[16];
        unit_print(expected, sizeof expected, "a%%%02Xb", (unsigned)c);
        w = writer_of(buf, countof(buf));
        http_put_encoded(&w, (str){value, 3});
        b32 unreserved = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                         (c >= 'a' && c <= 'z') || (c && strchr("-._~", c));
        CHECK(unreserved ? str_eq(written(&w), (str){value, 3}) : unit_is(written(&w), expected));
    }
}

/* ---- http_try: what is tried again, how often and when ---- */

typedef struct {
    char name[48];
    /* The streams: 0 none more, r refused, t the connect hangs, and of an answer: 2 200, 4 404, 5
     * 503, 8 408, 9 429, w 429 with Retry-After 1, W with 100, each kept alive; e end, x reset, s
     * silence; h half an answer. A blank begins the next stream. */
    char plan[16];
    int kept;   /* the first stream has served a request before */
    int budget; /* seconds */
    err error;
    int tries, connects;
    i64 least, most; /* ms that pass */
} unit_get_row;

static const unit_get_row unit_get_rows[] = {
    {"good", "2", 0, 7, E_None, 1, 1, 0, 0},
    {"not found", "4", 0, 7, E_None, 1, 1, 0, 0},
    {"refused, then good", "r 2", 0, 7, E_None, 2, 2, 1, 500},
    {"refused twice, then good", "r r 2", 0, 7, E_None, 3, 3, 2, 1500},
    {"refused three times", "r r r 2", 0, 7, E_ConnectRefused, 3, 3, 2, 1500},
    {"connect hangs", "t 2", 0, 7, E_TimedOut, 1, 1, 7000, 7000},
    {"503 twice, then good", "552", 0, 7, E_None, 3, 1, 2, 1500},
    {"503 three times", "5552", 0, 7, E_HttpBusy, 3, 1, 2, 1500},
    {"503 and closed, then good", "5e 2", 0, 7, E_None, 3, 2, 1, 500},
    {"408, then good", "82", 0, 7, E_None, 2, 1, 1, 500},
    {"429, then good", "92", 0, 7, E_None, 2, 1, 1, 500},
    {"429 with Retry-After that fits", "w2", 0, 7, E_None, 2, 1, 1000, 1000},
    {"429 with Retry-After that does not fit", "W2", 0, 7, E_HttpBusy, 1, 1, 0, 0},
    {"429 with Retry-After, too little budget", "w2", 0, 1, E_HttpBusy, 1, 1, 0, 0},
    {"404 is no reason", "42", 0, 7, E_None, 1, 1, 0, 0},
    {"kept, good", "2", 1, 7, E_None, 1, 1, 0, 0},
    {"kept and reset, sent again at once", "x 2", 1, 7, E_None, 2, 2, 0, 0},
    {"kept and ended, sent again at once", "e 2", 1, 7, E_None, 2, 2, 0, 0},
    {"kept and silent, sent again after 2 s", "s 2", 1, 7, E_None, 2, 2, 2000, 2000},
    {"kept and silent, short budget", "s 2", 1, 1, E_TimedOut, 1, 1, 1000, 1000},
    {"kept and reset, then the fresh one too", "x x 2", 1, 7, E_ConnectionReset, 2, 2, 0, 0},
    {"kept and silent, then the fresh one too", "s s 2", 1, 7, E_TimedOut, 2, 2, 7000, 7000},
    {"kept, reset after the first byte", "hx 2", 1, 7, E_ConnectionReset, 1, 1, 0, 0},
    {"kept, ended after the first byte", "he 2", 1, 7, E_HttpTruncated, 1, 1, 0, 0},
    {"kept, silent after the first byte", "hs 2", 1, 7, E_TimedOut, 1, 1, 7000, 7000},
    {"fresh and silent", "s 2", 0, 7, E_TimedOut, 1, 1, 7000, 7000},
    {"fresh, reset before the first byte", "x 2", 0, 7, E_ConnectionReset, 1, 1, 0, 0},
    {"fresh, reset after the first byte", "hx 2", 0, 7, E_ConnectionReset, 1, 1, 0, 0},
    {"fresh, ended after the first byte", "he 2", 0, 7, E_HttpTruncated, 1, 1, 0, 0},
    {"refused, 503, then good", "r 52", 0, 7, E_None, 3, 2, 2, 1500},
    {"refused and no time left", "r 2", 0, 0, E_ConnectRefused, 1, 1, 0, 0},
};

/* Fills the script and gives the results of the connects. */
static void unit_get_plan(const char *plan)
{
    static const char busy[] = "HTTP/1.1 503 x\r\nContent-Length: 4\r\n\r\nbusy";
    iz connects = 0;
    for (b32 fresh = 1; *plan; plan++) {
        if (*plan == ' ') {
            if (!fresh && plan[-1] != 'e' && plan[-1] != 'x' && plan[-1] != 's')
                script_add(S(""), THEN_SILENCE);
            fresh = 1;
            continue;
        }
        if (fresh)
            script.connect[connects++] = *plan == 'r'   ? E_ConnectRefused
                                         : *plan == 't' ? E_TimedOut
                                                        : E_None;
        fresh = *plan == 'r' || *plan == 't';
        switch (*plan) {
        case '2':
            script_add(S(OK "Content-Length: 4\r\n\r\ngood"), THEN_MORE);
            break;
        case '4':
            script_add(S("HTTP/1.1 404 x\r\nContent-Length: 4\r\n\r\nnone"), THEN_MORE);
            break;
        case '5':
            script_add(S(busy), THEN_MORE);
            break;
        case '8':
            script_add(S("HTTP/1.1 408 x\r\nContent-Length: 0\r\n\r\n"), THEN_MORE);
            break;
        case '9':
            script_add(S("HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n"), THEN_MORE);
            break;
        case 'w':
            script_add(S("HTTP/1.1 429 x\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"),
                       THEN_MORE);
            break;
        case 'W':
            script_add(S("HTTP/1.1 429 x\r\nRetry-After: 100\r\nContent-Length: 0\r\n\r\n"),
                       THEN_MORE);
            break;
        case 'h':
            script_add(S("HTTP/1.1 200 OK\r\nContent-Le"), THEN_MORE);
            break;
        case 'e':
            script_add(S(""), THEN_END);
            break;
        case 'x':
            script_add(S(""), THEN_RESET);
            break;
        case 's':
            script_add(S(""), THEN_SILENCE);
            break;
        }
    }
}

static void test_http_get_retries(void)
{
    for (iz i = 0; i < countof(unit_get_rows); i++) {
        const unit_get_row *row = &unit_get_rows[i];
        static connection c;
        http_response r = {0};
        arena *a = unit_arena();
        iz tries = 0;
        script_start();
        if (row->kept)
            script_add(S(OK "Content-Length: 0\r\n\r\n"), THEN_MORE);
        unit_get_plan(row->plan);
        memset(&c, 0, sizeof c);
        connection_init(&c, unit_network(0), (origin){S("127.0.0.1"), 80, 0});
        if (row->kept)
            CHECK(!http_try(&c, S("GET 0"), script.now + SECOND, a, &r, &tries) && c.fd >= 0);
        i64 start = script.now;
        tries = 0;
        script.sent.len = 0;
        err error = http_try(&c, S("GET 1"), start + row->budget * SECOND, a, &r, &tries);
        i64 ms = (script.now - start) / MS;
        char text[160];
        unit_print(text, sizeof text, "%s: %s, %ld tries, %ld connects, %lld ms", row->name,
                   unit_error(error), (long)tries, (long)script.connects, ms);
        CHECK_ROW(error == row->error && tries == row->tries, text);
        CHECK_ROW(script.connects == row->connects, text);
        CHECK_ROW(ms >= row->least && ms <= row->most, text);
        CHECK_ROW(!script.faults, text);
        iz refused = 0;
        for (iz k = 0; k < script.connects; k++)
            refused += script.connect[k] != E_None;
        CHECK_ROW(unit_count(written(&script.sent), "GET 1") == tries - refused, text);
        if (!error)
            CHECK_ROW(unit_is(r.body, row->plan[0] == '4' ? "none" : "good"), text);
        connection_close(&c);
    }
}

/* The pauses grow. */
static void test_http_get_pauses(void)
{
    static connection c;
    http_response r;
    iz tries = 0;
    script_start();
    unit_get_plan("r r 2");
    script.connect[2] = E_ConnectRefused;
    memset(&c, 0, sizeof c);
    connection_init(&c, unit_network(0), (origin){S("127.0.0.1"), 80, 0});
    i64 start = script.now;
    CHECK(http_try(&c, S("GET"), start + SECOND, unit_arena(), &r, &tries) == E_ConnectRefused);
    CHECK(tries == 3 && script.now - start == RETRY_PAUSE + 3 * RETRY_PAUSE);
    tries = 0;
    start = script.now;
    for (int i = 0; i < 6; i++)
        script.connect[i] = E_ConnectRefused;
    CHECK(http_try(&c, S("GET"), start + 2 * RETRY_PAUSE, unit_arena(), &r, &tries));
    CHECK(tries == 2 && script.now - start <= 2 * RETRY_PAUSE);
}

/* ---- section 12: Lambda Runtime API ---- */

typedef struct {
    lambda l;
    logger log;
} unit_lambda;

static unit_lambda *unit_lambda_of(const char *place)
{
    static unit_lambda u;
    static char variable[200];
    const char *env[] = {variable, 0};
    unit_print(variable, sizeof variable, "AWS_LAMBDA_RUNTIME_API=%s", place);
    memset(&u, 0, sizeof u);
    log_init(&u.log, env);
    u.l.log = &u.log;
    CHECK_ROW(!lambda_init(&u.l, unit_network(env)), place);
    return &u;
}

static void test_lambda_place(void)
{
    static const struct {
        char place[40], start[80];
    } rows[] = {
        {"127.0.0.1:9001", "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
        {"localhost:9001", "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
        {"http://127.0.0.1:9001", "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
        {"http://127.0.0.1:9001/", "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
        {"http://127.0.0.1:9001/base/path",
         "GET /base/path/2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
        {"http://[::1]:9001/b/", "GET /b/2018-06-01/runtime/invocation/next HTTP/1.1\r\n"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        unit_lambda *u = unit_lambda_of(rows[i].place);
        script_start();
        CHECK_ROW(!lambda_ask(&u->l, unit_arena(), "invocation/next"), rows[i].place);
        CHECK_ROW(str_starts(written(&script.sent), unit_str(rows[i].start)), rows[i].place);
        CHECK_ROW(script.to.port == 9001, rows[i].place);
        CHECK_ROW(unit_count(written(&script.sent), "User-Agent: ") == 1, rows[i].place);
    }
    static const char bad[][60] = {"AWS_LAMBDA_RUNTIME_API=",
                                   "AWS_LAMBDA_RUNTIME_AP=127.0.0.1:1",
                                   "AWS_LAMBDA_RUNTIME_API=https://127.0.0.1:1",
                                   "AWS_LAMBDA_RUNTIME_API=127.0.0.1:x",
                                   "AWS_LAMBDA_RUNTIME_API=http://a b/",
                                   "AWS_LAMBDA_RUNTIME_API=127.0.0.1:99999"};
    for (iz i = 0; i < countof(bad); i++) {
        lambda l;
        const char *env[] = {bad[i], 0};
        CHECK_ROW(lambda_init(&l, unit_network(env)) == E_RuntimeApiUrl, bad[i]);
    }
}

/* The clocks of a script: 8 o'clock, and a deadline header so many ms later. */
static i64 unit_budget(const char *format, i64 ms)
{
    char text[64];
    script_start();
    unit_print(text, sizeof text, format, os_unix_ms() + ms);
    return lambda_deadline(unit_str(text)) - script.now;
}

static void test_lambda_deadline(void)
{
    CHECK(unit_budget("%lld", 3000) > 2 * SECOND && unit_budget("%lld", 3000) < 3 * SECOND);
    CHECK(unit_budget("%lld", 3000) == 3 * SECOND - LAMBDA_MARGIN);
    CHECK(unit_budget("%lld", 8000) == 7 * SECOND);
    CHECK(unit_budget("%lld", 900000) == 7 * SECOND);
    CHECK(unit_budget("%lld", 7000) == 7 * SECOND - LAMBDA_MARGIN);
    CHECK(unit_budget("%lld", 10) == 0);
    CHECK(unit_budget("%lld", -60000) == 0);
    CHECK(unit_budget("0", 0) == 0);
    static const char malformed[][40] = {
        "",     "x",      "-1", "1e13", "%lld ", " %lld", "%lld.5", "0x10", "99999999999999999999",
        "null", "%lldms", "+1"};
    for (iz i = 0; i < countof(malformed); i++)
        CHECK_ROW(unit_budget(malformed[i], 1000) == 7 * SECOND, malformed[i]);
    CHECK(lambda_deadline((str){0, 0}) == script.now + 7 * SECOND);
    CHECK(lambda_deadline(S("9223372036854775807")) == script.now + 7 * SECOND);
}

/* One answer to `next`: its head, without a length, and its body. */
static err unit_receive(unit_lambda **u, const char *head, const char *body, invocation *i)
{
    static char text[8192];
    *u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    unit_print(text, sizeof text, "%sContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
    script_add(unit_str(text), THEN_MORE);
    CHECK(!lambda_ask(&(*u)->l, unit_arena(), "invocation/next"));
    return lambda_receive(&(*u)->l, unit_arena(), i);
}

#define ID "lambda-runtime-aws-request-id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n"

static void test_lambda_receive(void)
{
    unit_lambda *u;
    invocation i;
    CHECK(!unit_receive(
        &u,
        OK "Lambda-Runtime-Aws-Request-Id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n"
           "LAMBDA-RUNTIME-DEADLINE-MS: 1795420803000\r\n"
           "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:1:function\r\n"
           "lambda-runtime-trace-id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=1\r\n"
           "Lambda-Runtime-Invocation-Id: inv-1\r\n",
        "{\"a\":1}", &i));
    CHECK(unit_is(i.request_id, "8476a536-e9f4-11e8-9739-2dfe598c3fcd") && !i.error);
    CHECK(unit_is(i.trace_id, "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=1"));
    CHECK(unit_is(i.invocation_id, "inv-1") && unit_is(i.event, "{\"a\":1}"));
    CHECK(i.deadline == script.now + 3 * SECOND - LAMBDA_MARGIN);
    CHECK(str_eq(u->log.request_id, i.request_id));
    CHECK(!unit_receive(&u, OK ID, "{}", &i) && !i.error); /* all optional headers are missing */
    CHECK(!i.trace_id.len && !i.invocation_id.len && i.deadline == script.now + 7 * SECOND);
    CHECK(!script.logs);
    CHECK(!unit_receive(&u, OK ID, "", &i) && !i.error && !i.event.len);
}

static void test_lambda_receive_refused(void)
{
    static const struct {
        char head[120];
        err error;
    } rows[] = {
        {OK, E_RequestIdInvalid},
        {OK "Lambda-Runtime-Aws-Request-Id:\r\n", E_RequestIdInvalid},
        {OK "Lambda-Runtime-Aws-Request-Id: a b\r\n", E_RequestIdInvalid},
        {OK "Lambda-Runtime-Aws-Request-Id: a\tb\r\n", E_RequestIdInvalid},
        {OK "Lambda-Runtime-Aws-Request-Id: caf\xc3\xa9\r\n", E_RequestIdInvalid},
        {OK "X-Lambda-Runtime-Aws-Request-Id: a\r\n", E_RequestIdInvalid},
        {"HTTP/1.1 403 Forbidden\r\n" ID, E_RuntimeApiStatus},
        {"HTTP/1.1 500 x\r\n", E_RuntimeApiStatus},
        {"HTTP/1.1 202 x\r\n" ID, E_RuntimeApiStatus},
        {"HTTP/1.1 200 OK\r\nBad header: x\r\n", E_HttpHeader},
        {"nonsense\r\n", E_HttpStatusLine},
    };
    unit_lambda *u;
    invocation i;
    for (iz k = 0; k < countof(rows); k++)
        CHECK_ROW(unit_receive(&u, rows[k].head, "{}", &i) == rows[k].error, rows[k].head);
    static char longest[600] = OK "Lambda-Runtime-Aws-Request-Id: ";
    size_t n = strlen(longest);
    memset(longest + n, 'x', LAMBDA_ID_MAX);
    strcpy(longest + n + LAMBDA_ID_MAX, "\r\n");
    CHECK(!unit_receive(&u, longest, "{}", &i) && i.request_id.len == LAMBDA_ID_MAX);
    strcpy(longest + n + LAMBDA_ID_MAX, "x\r\n");
    CHECK(unit_receive(&u, longest, "{}", &i) == E_RequestIdInvalid);
}

/* What is wrong with an event that has an id is reported under that id. */
static void test_lambda_receive_faulty_event(void)
{
    unit_lambda *u;
    invocation i;
    CHECK(!unit_receive(&u, OK ID "Lambda-Runtime-Invocation-Id: a b\r\n", "{}", &i));
    CHECK(i.error == E_InvocationIdInvalid && !i.invocation_id.len && i.request_id.len);
    CHECK(!unit_receive(&u, OK ID "Lambda-Runtime-Invocation-Id: \xe9\r\n", "{}", &i));
    CHECK(i.error == E_InvocationIdInvalid);
    CHECK(!unit_receive(&u, OK ID "Lambda-Runtime-Trace-Id: a b\r\n", "{}", &i));
    CHECK(!i.trace_id.len && unit_has(written(&script.log), "TraceIdInvalid"));
    CHECK(!unit_has(written(&script.log), "a b"));
    u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    script_add(S(OK ID "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX"), THEN_END);
    CHECK(!lambda_ask(&u->l, unit_arena(), "invocation/next") &&
          !lambda_receive(&u->l, unit_arena(), &i));
    CHECK(i.error == E_HttpChunk && i.request_id.len && u->l.connection.fd == -1);
    script_start();
    script_add(S(OK ID "Content-Length: 6292481\r\n\r\n"), THEN_END); /* 6 MiB + 1025 */
    CHECK(!lambda_ask(&u->l, unit_arena(), "invocation/next") &&
          !lambda_receive(&u->l, unit_arena(), &i));
    CHECK(i.error == E_HttpBodyTooLarge && i.request_id.len);
    script_start();
    script_add(S(""), THEN_END);
    CHECK(!lambda_ask(&u->l, unit_arena(), "invocation/next"));
    CHECK(lambda_receive(&u->l, unit_arena(), &i) == E_ConnectionClosed);
}

/* An event of 6 MiB, sized and chunked. */
static void test_lambda_receive_large(void)
{
    enum { SIZE = 6 * 1024 * 1024 };
    static u8 event[SIZE];
    memset(event, '7', SIZE);
    for (int chunked = 0; chunked < 2; chunked++) {
        invocation i;
        unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
        script_start();
        script_add(chunked ? S(OK ID "Transfer-Encoding: chunked\r\n\r\n600000\r\n")
                           : S(OK ID "Content-Length: 6291456\r\n\r\n"),
                   THEN_MORE);
        script_add((str){event, SIZE}, THEN_MORE);
        script_add(chunked ? S("\r\n0\r\n\r\n") : S(""), THEN_MORE);
        CHECK(!lambda_ask(&u->l, unit_arena(), "invocation/next") &&
              !lambda_receive(&u->l, unit_arena(), &i) && !i.error);
        CHECK(i.event.len == SIZE && i.event.ptr[SIZE - 1] == '7' && !script.faults);
    }
}

static void test_lambda_ask_once(void)
{
    unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    CHECK(!lambda_ask(&u->l, unit_arena(), "invocation/next") && script.connects == 1);
    CHECK(str_starts(written(&script.sent), S("GET /2018-06-01/runtime/invocation/next HTTP/1.1")));
    u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    script.connect[0] = E_ConnectRefused;
    CHECK(lambda_ask(&u->l, unit_arena(), "invocation/next") == E_ConnectRefused &&
          script.connects == 1);
}

static invocation unit_invocation(const char *invocation_id)
{
    return (invocation){.request_id = S("req-1"), .invocation_id = unit_str(invocation_id)};
}

#define ACCEPTED "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

static void test_lambda_post(void)
{
    invocation i = unit_invocation("inv \"1");
    unit_lambda *u = unit_lambda_of("http://127.0.0.1:9001/base");
    script_start();
    for (int n = 0; n < 3; n++)
        script_add(S(ACCEPTED), THEN_MORE);
    script.most = 7;
    i.invocation_id = S("inv-1");
    CHECK(!lambda_respond(&u->l, unit_arena(), &i, S("{\"x\":\"\xc3\xa9\"}")));
    str sent = written(&script.sent);
    CHECK(str_starts(sent,
                     S("POST /base/2018-06-01/runtime/invocation/req-1/response HTTP/1.1\r\n")));
    CHECK(unit_has(sent, "\r\nContent-Type: application/json\r\n"));
    CHECK(unit_has(sent, "\r\nContent-Length: 10\r\n") && unit_has(sent, "\r\nUser-Agent: l"));
    CHECK(unit_has(sent, "\r\nLambda-Runtime-Invocation-Id: inv-1\r\n"));
    CHECK(!unit_has(sent, "Error-Type") && str_ends(sent, S("\r\n\r\n{\"x\":\"\xc3\xa9\"}")));
    i.invocation_id = (str){0, 0};
    script.sent.len = 0;
    CHECK(!lambda_respond(&u->l, unit_arena(), &i, S("{}")) && script.connects == 1);
    CHECK(!unit_has(written(&script.sent), "Invocation-Id"));
    i.invocation_id = S("inv-2");
    script.sent.len = 0;
    CHECK(!lambda_report(&u->l, unit_arena(), &i, E_SkillIdMismatch) && script.connects == 1);
    sent = written(&script.sent);
    CHECK(unit_has(sent, "/invocation/req-1/error HTTP/1.1\r\n"));
    CHECK(unit_has(sent, "\r\nLambda-Runtime-Function-Error-Type: Function.SkillIdMismatch\r\n"));
    CHECK(unit_has(sent, "\r\nLambda-Runtime-Invocation-Id: inv-2\r\n"));
    str body = str_from(sent, unit_index(sent, END, 0) + 4);
    CHECK(strict_json(body) && unit_is(strict_at(body, "stackTrace"), "[]"));
    CHECK(unit_is(strict_string_at(body, "errorType"), "Function.SkillIdMismatch"));
    CHECK(strict_string_at(body, "errorMessage").len > 0 && !script.logs);
}

/* Every error's name is one that the platform keeps, and none stands twice. */
static void test_lambda_error_names(void)
{
    iz count = 0;
#define X(name, sentence) count++;
    ERRORS(X)
#undef X
    for (iz e = 0; e < count; e++) {
        str sentence, name = err_name((err)e, &sentence);
        CHECK(name.len > 0 && is_upper(name.ptr[0]) && sentence.len > 0);
        for (iz i = 0; i < name.len; i++)
            CHECK(is_alnum(name.ptr[i]) && !is_digit(name.ptr[i]));
        for (iz k = 0; k < e; k++)
            if (unit_is(name, unit_error((err)k)))
                CHECK(0);
        u8 buf[600];
        unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
        invocation i = unit_invocation("");
        script_start();
        script_add(S(ACCEPTED), THEN_MORE);
        CHECK(e == 0 || !lambda_report(&u->l, unit_arena(), &i, (err)e));
        unit_print((char *)buf, sizeof buf, "Function.%.*s\"", (int)name.len, name.ptr);
        CHECK(e == 0 || unit_has(written(&script.sent), (char *)buf));
    }
    CHECK(!strcmp(unit_error(E_None), "None") && !strcmp(unit_error(E_TimedOut), "TimedOut"));
}

static void test_lambda_post_statuses(void)
{
    static const struct {
        char status[8];
        err error;
        int logs;
    } rows[] = {
        {"200", E_None, 0},
        {"202", E_None, 0},
        {"400", E_None, 1},
        {"403", E_None, 1},
        {"410", E_None, 1},
        {"413", E_None, 1},
        {"500", E_RuntimeApiStatus, 0},
        {"503", E_RuntimeApiStatus, 0},
    };
    for (iz k = 0; k < countof(rows); k++) {
        char text[100];
        invocation i = unit_invocation("");
        unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
        script_start();
        unit_print(text, sizeof text, "HTTP/1.1 %s x\r\nContent-Length: 5\r\n\r\nwrong",
                   rows[k].status);
        script_add(unit_str(text), THEN_MORE);
        CHECK_ROW(lambda_respond(&u->l, unit_arena(), &i, S("{}")) == rows[k].error,
                  rows[k].status);
        CHECK_ROW(script.logs == rows[k].logs && script.connects == 1, rows[k].status);
        CHECK_ROW(!unit_has(written(&script.log), "wrong"), rows[k].status);
    }
}

/* An answer whose status is known is never a reason to send the response a second time. */
static void test_lambda_post_odd_answers(void)
{
    static char text[6000];
    const char *heads[] = {"413 x\r\nContent-Length: 5000", "202 x", "202 x\r\nbad header",
                           "202 x\r\nTransfer-Encoding: gzip"};
    for (iz k = 0; k < countof(heads); k++) {
        invocation i = unit_invocation("");
        unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
        script_start();
        iz n = sprintf(text, "HTTP/1.1 %s\r\n\r\n", heads[k]);
        memset(text + n, 'x', 5000);
        script_add((str){(u8 *)text, n + 5000}, THEN_END);
        CHECK_ROW(!lambda_respond(&u->l, unit_arena(), &i, S("{}")), heads[k]);
        CHECK_ROW(unit_count(written(&script.sent), "POST ") == 1, heads[k]);
    }
}

/* restore/next comes first and over a connection of its own, of which nothing is left; anything but
 * 200 ends the program. */
static void test_lambda_restore(void)
{
    static const char *env[] = {"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
                                "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", 0};
    static const char *nowhere[] = {"AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", 0};
    static const int statuses[] = {200, 202, 403, 404, 500};
    for (iz i = 0; i < countof(statuses); i++) {
        char text[80];
        arena *a = unit_arena();
        script_start();
        unit_print(text, sizeof text, "HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", statuses[i]);
        script_add(unit_str(text), THEN_END);
        CHECK(skill_start(a, env) == (i ? 1 : START_COPY));
        str sent = written(&script.sent);
        CHECK(str_starts(sent, S("GET /2018-06-01/runtime/restore/next HTTP/1.1\r\n")));
        CHECK(unit_count(sent, "GET ") == 1 && script.connects == 1);
        CHECK(script.closes == 1 && a->at == a->start);
        iz left = 0;
        for (iz k = 0; k < 1 << 16; k++)
            left += a->start[k] != 0;
        CHECK(!left); /* of the time before the snapshot */
        CHECK((i > 0) == unit_has(written(&script.log), "RuntimeApiStatus"));
    }
    script_start();
    CHECK(skill_start(unit_arena(), nowhere) == 1 && !script.connects);
    CHECK(unit_has(written(&script.log), "RuntimeApiUrl"));
    script_start();
    script.connect[0] = E_ConnectRefused;
    CHECK(skill_start(unit_arena(), env) == 1 && unit_has(written(&script.log), "ConnectRefused"));
}

/* A broken connection is replaced once. */
static void test_lambda_post_again(void)
{
    static const struct {
        char name[40];
        int kept, broken; /* how many connections break, in turn: */
        char how[4]; /* e end, x reset, h half an answer and the end, r refused, s send fails */
        err error;
    } rows[] = {
        {"kept and ended", 1, 1, "e", E_None},
        {"kept and reset", 1, 1, "x", E_None},
        {"half an answer", 1, 1, "h", E_None},
        {"the send fails", 0, 1, "s", E_None},
        {"refused once", 0, 1, "r", E_None},
        {"broken twice", 1, 2, "ex", E_ConnectionReset},
        {"broken, then refused", 1, 2, "er", E_ConnectRefused},
    };
    for (iz k = 0; k < countof(rows); k++) {
        invocation i = unit_invocation("");
        unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
        script_start();
        if (rows[k].kept)
            script_add(S(ACCEPTED), THEN_MORE);
        for (int n = 0; n < rows[k].broken; n++) {
            char how = rows[k].how[n];
            if (how == 'r')
                script.connect[n] = E_ConnectRefused;
            else if (how == 's')
                script.send[n] = E_ConnectionReset;
            if (how != 'r')
                script_add(how == 'h' ? S("HTTP/1.1 202 Acc") : S(""),
                           how == 'x' ? THEN_RESET : THEN_END);
        }
        script_add(S(ACCEPTED), THEN_MORE);
        if (rows[k].kept)
            CHECK(!lambda_respond(&u->l, unit_arena(), &i, S("{}")));
        script.sent.len = 0;
        err error = lambda_respond(&u->l, unit_arena(), &i, S("{\"a\":2}"));
        CHECK_ROW(error == rows[k].error, rows[k].name);
        CHECK_ROW(script.connects == 2 && !script.faults, rows[k].name);
        iz whole = rows[k].how[0] != 's' && rows[k].how[0] != 'r' && rows[k].how[1] != 'r' ? 2 : 1;
        CHECK_ROW(unit_count(written(&script.sent), "{\"a\":2}") == whole, rows[k].name);
    }
}

/* ---- log lines ---- */

static void test_log_levels(void)
{
    static const struct {
        char variable[40];
        log_level least;
    } rows[] = {
        {"AWS_LAMBDA_LOG_LEVEL=TRACE", LOG_TRACE},
        {"AWS_LAMBDA_LOG_LEVEL=DEBUG", LOG_DEBUG},
        {"AWS_LAMBDA_LOG_LEVEL=INFO", LOG_INFO},
        {"AWS_LAMBDA_LOG_LEVEL=WARN", LOG_WARN},
        {"AWS_LAMBDA_LOG_LEVEL=ERROR", LOG_ERROR},
        {"AWS_LAMBDA_LOG_LEVEL=FATAL", LOG_FATAL},
        {"AWS_LAMBDA_LOG_LEVEL=", LOG_INFO},
        {"AWS_LAMBDA_LOG_LEVEL=LOUD", LOG_INFO},
        {"OTHER=TRACE", LOG_INFO},
    };
    for (iz i = 0; i < countof(rows); i++) {
        const char *env[] = {rows[i].variable, 0};
        logger log = {0};
        script_start();
        log_init(&log, env);
        CHECK_ROW(!log.as_json, rows[i].variable);
        for (int level = LOG_TRACE; level <= LOG_FATAL; level++)
            log_line(&log, (log_level)level, "x", S(""), E_None);
        CHECK_ROW(script.logs == LOG_FATAL - (int)rows[i].least + 1, rows[i].variable);
        CHECK_ROW(unit_count(written(&script.log), "\n") == script.logs, rows[i].variable);
    }
}

static void test_log_lines(void)
{
    static const char *env[] = {"AWS_LAMBDA_LOG_FORMAT=JSON", 0};
    static const char *text[] = {"AWS_LAMBDA_LOG_FORMAT=Text", 0};
    logger log = {0};
    u8 name[300];
    script_start();
    log_init(&log, env);
    log.request_id = S("req\"\\1");
    log_line(&log, LOG_ERROR, "what", S("which"), E_HttpTruncated);
    str entry = written(&script.log);
    CHECK(script.logs == 1 && str_ends(entry, S("}\n")) && strict_json(entry));
    CHECK(unit_is(strict_string_at(entry, "timestamp"), "2026-11-23T08:00:00.000Z"));
    CHECK(unit_is(strict_string_at(entry, "level"), "ERROR"));
    CHECK(unit_is(strict_string_at(entry, "requestId"), "req\"\\1"));
    CHECK(unit_is(strict_string_at(entry, "message"), "what which"));
    CHECK(unit_is(strict_string_at(entry, "errorType"), "HttpTruncated"));
    CHECK(strict_string_at(entry, "errorMessage").len > 10);
    for (int i = 0; i < 300; i++)
        name[i] = (u8)i;
    log.request_id = (str){0, 0};
    script.log.len = 0;
    log_line(&log, LOG_WARN, "what", (str){name, 300}, E_None);
    entry = written(&script.log);
    CHECK(script.logs == 2 && strict_json(entry) && !strict_at(entry, "requestId").ptr);
    CHECK(!strict_at(entry, "errorType").ptr && unit_count(entry, "\n") == 1);
    CHECK(entry.len < 300);
    log_init(&log, text);
    static u8 id[LAMBDA_ID_MAX];
    memset(id, '"', sizeof id);
    for (int as_json = 0; as_json < 2; as_json++) {
        log.as_json = as_json;
        log.request_id = (str){id, countof(id)};
        script.log.len = 0;
        log_line(&log, LOG_WARN, "what", (str){name, 300}, E_AccessTokenInvalid);
        entry = written(&script.log);
        CHECK(unit_count(entry, "\n") == 1 && entry.len <= LOG_LINE_MAX &&
              str_ends(entry, S("\n")));
        for (iz i = 0; i < entry.len - 1; i++)
            CHECK(entry.ptr[i] == '\t' || (entry.ptr[i] >= ' ' && entry.ptr[i] < 0x7f));
    }
    log.as_json = 0;
    script.log.len = 0;
    log.request_id = S("req-1");
    log_line(&log, LOG_FATAL, "what", S(""), E_TimedOut);
    CHECK(str_starts(written(&script.log), S("2026-11-23T08:00:00.000Z\treq-1\tFATAL\twhat")));
    CHECK(unit_has(written(&script.log), "TimedOut") &&
          unit_count(written(&script.log), "\n") == 1);
}

static void test_log_crash(void)
{
    logger log = {.least = LOG_FATAL, .request_id = S("req-1"), .trace_root = S("1-2-3")};
    script_start();
    log_crash(&log, S("SEGV"), 0x1a2b, STAGE_HANDSHAKE);
    str entry = written(&script.log);
    CHECK(script.logs == 1 && strict_json(entry) && str_ends(entry, S("}\n")));
    CHECK(unit_is(strict_string_at(entry, "timestamp"), "2026-11-23T08:00:00.000Z"));
    CHECK(unit_is(strict_string_at(entry, "level"), "FATAL"));
    CHECK(unit_is(strict_string_at(entry, "requestId"), "req-1"));
    CHECK(unit_is(strict_string_at(entry, "traceId"), "1-2-3"));
    CHECK(unit_is(strict_string_at(entry, "message"), "crashed"));
    CHECK(unit_is(strict_string_at(entry, "signal"), "SIGSEGV"));
    CHECK(unit_is(strict_string_at(entry, "section"), "8 TLS 1.3 client"));
    CHECK(unit_is(strict_string_at(entry, "address"), "0x01a2b"));
    static u8 id[LAMBDA_ID_MAX];
    memset(id, 0xff, sizeof id); /* torn: not even visible ASCII */
    log = (logger){.request_id = {id, countof(id)}};
    script.log.len = 0;
    log_crash(&log, S("ILL"), -1, STAGE_WAIT);
    entry = written(&script.log);
    CHECK(strict_json(entry) && !strict_at(entry, "address").ptr);
    CHECK(unit_is(strict_string_at(entry, "section"), "12 Lambda Runtime API"));
    CHECK(!strict_at(entry, "traceId").ptr && unit_count(entry, "\n") == 1);
}

/* Each stage's section is one of the list at the head, to the letter. */
static void test_log_stages(void)
{
    static char head[4000];
    FILE *f = fopen("skill.c", "re");
    skipped += !f;
    if (!f)
        return;
    CHECK(fread(head, 1, sizeof head - 1, f) == sizeof head - 1);
    fclose(f);
    for (int i = 0; i < STAGE_COUNT; i++) {
        char entry[80];
        str section, name = stage_name((stage)i, &section);
        unit_print(entry, sizeof entry, "\n *   %s%.*s\n", section.ptr[1] == ' ' ? " " : "",
                   (int)section.len, (const char *)section.ptr);
        CHECK_ROW(strstr(head, entry), entry);
        CHECK_ROW(name.len > 1 && section.len > 4, entry);
    }
}

static void test_log_trace_root(void)
{
    static const char rows[][2][120] = {
        {"Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1",
         "1-5bef4de7-ad49b0e87f6ef6c87fc2e700"},
        {"Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abcdef012345678912345678",
         "1-67891233-abcdef012345678912345678"},
        {"Root=", ""},
        {"NoRoot=1;Sampled=0", "NoRoot=1;Sampled=0"},
        {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
         "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"", ""},
    };
    for (iz i = 0; i < countof(rows); i++)
        CHECK_ROW(unit_is(lambda_trace_root(unit_str(rows[i][0])), rows[i][1]), rows[i][0]);
    static u8 lots[LAMBDA_ID_MAX];
    memset(lots, ';', sizeof lots);
    CHECK(lambda_trace_root((str){lots, sizeof lots}).len == LOG_WORD_MAX);
}

/* ---- section 13: Alexa ---- */

static alexa_request *unit_parse(const char *event, err *error)
{
    static alexa_request r;
    *error = alexa_parse(unit_str(event), unit_arena(), &r);
    return &r;
}

/* A whole event, as Alexa sends it. */
static const char unit_event[] =
    "{\"version\":\"1.0\",\"session\":{\"new\":false,\"sessionId\":\"amzn1.echo-api.session.1\","
    "\"application\":{\"applicationId\":\"amzn1.ask.skill.1\"},\"attributes\":{\"x\":1,\"speech\":"
    "\"Caf\\u00e9 \\\"1\\\"\"},\"user\":{\"userId\":\"amzn1.ask.account.A\","
    "\"accessToken\":\"tok-1\","
    "\"permissions\":{\"consentToken\":\"no\"}}},\"context\":{\"AudioPlayer\":{\"playerActivity\":"
    "\"IDLE\"},\"System\":{\"application\":{\"applicationId\":\"amzn1.ask.skill.2\"},\"user\":{"
    "\"userId\":\"amzn1.ask.account.B\",\"accessToken\":\"tok-2\"},\"device\":{\"deviceId\":\"d\","
    "\"supportedInterfaces\":{}},\"apiAccessToken\":\"long\"}},\"request\":{\"type\":"
    "\"IntentRequest\",\"requestId\":\"amzn1.echo-api.request.1\",\"timestamp\":1479830400000,"
    "\"locale\":\"en-GB\",\"intent\":{\"name\":\"StatusIntent\",\"confirmationStatus\":\"NONE\","
    "\"slots\":{\"OTHER\":{\"value\":\"no\"},\"LINE\":{\"name\":\"LINE\",\"value\":\"the vic\","
    "\"resolutions\":{\"resolutionsPerAuthority\":[{\"authority\":\"a\",\"status\":{\"code\":"
    "\"ER_SUCCESS_MATCH\"},\"values\":[{\"value\":{\"name\":\"Victoria\",\"id\":\"victoria\"}},"
    "{\"value\":{\"name\":\"Other\",\"id\":\"other\"}}]}]},\"slotValue\":{\"type\":"
    "\"Simple\"}}}}}}";

static void test_alexa_parse(void)
{
    err error;
    alexa_request *r = unit_parse(unit_event, &error);
    CHECK(!error && unit_is(r->member[ALEXA_TYPE], "IntentRequest") &&
          unit_is(r->member[ALEXA_INTENT], "StatusIntent"));
    CHECK(unit_is(r->member[ALEXA_SLOT], "the vic") &&
          unit_is(r->member[ALEXA_SLOT_ID], "victoria"));
    CHECK(unit_is(r->member[ALEXA_SLOT_NAME], "Victoria") &&
          unit_is(r->member[ALEXA_SPEECH], "Caf\xc3\xa9 \"1\""));
    CHECK(unit_is(r->member[ALEXA_SESSION_APP], "amzn1.ask.skill.1"));
    CHECK(unit_is(r->member[ALEXA_CONTEXT_APP], "amzn1.ask.skill.2") &&
          unit_is(alexa_token(r), "tok-1"));
    str text = S(unit_event);
    iz wrong = 0;
    for (iz n = 0; n < text.len; n++) {
        alexa_request part;
        wrong += alexa_parse(str_span(text, 0, n), unit_arena(), &part) == E_None;
    }
    CHECK(!wrong);
}

static void test_alexa_parse_tables(void)
{
    static const struct {
        char event[128];
        err error;
        char type[24], token[8], session_id[8], context_id[8];
    } rows[] = {
        {"{\"request\":{\"type\":\"T\"}}", E_None, "T", "", "-", "-"},
        {"{\"session\":null,\"context\":null,\"request\":{\"type\":\"T\"}}", E_None, "T", "", "-",
         "-"},
        {"{\"session\":[1],\"context\":\"x\",\"request\":{\"type\":\"T\"}}", E_None, "T", "", "-",
         "-"},
        {"{\"session\":{\"application\":null,\"user\":null},\"request\":{\"type\":\"T\"}}", E_None,
         "T", "", "-", "-"},
        {"{\"session\":{\"application\":{\"applicationId\":null}},\"request\":{\"type\":\"T\"}}",
         E_None, "T", "", "-", "-"},
        {"{\"session\":{\"application\":{\"applicationId\":\"\"}},\"request\":{\"type\":\"T\"}}",
         E_None, "T", "", "", "-"},
        {"{\"session\":{\"application\":{\"applicationId\":7}},\"request\":{\"type\":\"T\"}}",
         E_None, "T", "", "", "-"},
        {"{\"session\":{\"user\":{\"accessToken\":\"s\"}},\"request\":{\"type\":\"T\"}}", E_None,
         "T", "s", "-", "-"},
        {"{\"context\":{\"System\":{\"user\":{\"accessToken\":\"c\"}}},\"request\":"
         "{\"type\":\"T\"}}",
         E_None, "T", "c", "-", "-"},
        {"{\"context\":{\"System\":{\"application\":{\"applicationId\":\"c\"}}},\"request\":"
         "{\"type\":\"T\"}}",
         E_None, "T", "", "-", "c"},
        {"{\"request\":{\"type\":\"T\",\"type\":\"U\"},\"request\":{\"type\":\"V\"}}", E_None, "T",
         "", "-", "-"},
        {"{\"request\":{\"\\u0074ype\":\"T\"}}", E_None, "T", "", "-", "-"},
        {"{\"request\":{\"type\":\"\"}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":{\"type\":null}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":{\"type\":5}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":{\"type\":[\"T\"]}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":{\"Type\":\"T\"}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":{}}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":null}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":[{\"type\":\"T\"}]}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"request\":\"T\"}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"[]", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"null", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"\"request\"", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"{\"Records\":[{\"eventSource\":\"aws:s3\"}]}", E_NotAnAlexaRequest, "", "", "-", "-"},
        {"", E_JsonEmpty, "", "", "-", "-"},
        {"hello", E_JsonSyntax, "", "", "-", "-"},
        {"{\"request\":{\"type\":\"T\"}}x", E_JsonTrailing, "T", "", "-", "-"},
        {"{\"request\":{\"type\":\"T\"}", E_JsonTruncated, "T", "", "-", "-"},
        {"{\"x\":\"\xff\",\"request\":{\"type\":\"T\"}}", E_JsonUtf, "", "", "-", "-"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        err error;
        alexa_request *r = unit_parse(rows[i].event, &error);
        CHECK_ROW(error == rows[i].error, rows[i].event);
        if (error)
            continue;
        CHECK_ROW(unit_is(r->member[ALEXA_TYPE], rows[i].type) &&
                      unit_is(alexa_token(r), rows[i].token),
                  rows[i].event);
        const str *ids[] = {&r->member[ALEXA_SESSION_APP], &r->member[ALEXA_CONTEXT_APP]};
        const char *expected[] = {rows[i].session_id, rows[i].context_id};
        for (int k = 0; k < 2; k++)
            CHECK_ROW(expected[k][0] == '-' ? !ids[k]->ptr
                                            : ids[k]->ptr && unit_is(*ids[k], expected[k]),
                      rows[i].event);
    }
}

/* What a slot and its resolutions give: id, name and spoken value. */
static void test_alexa_parse_slots(void)
{
#define MATCH "{\"status\":{\"code\":\"ER_SUCCESS_MATCH\"},\"values\":"
#define NO_MATCH "{\"status\":{\"code\":\"ER_SUCCESS_NO_MATCH\"}"
    static const struct {
        char slot[240], id[12], name[12], value[12];
    } rows[] = {
        {"{\"value\":\"v\"}", "", "", "v"},
        {"{}", "", "", ""},
        {"null", "", "", ""},
        {"\"v\"", "", "", ""},
        {"{\"value\":null,\"resolutions\":null}", "", "", ""},
        {"{\"value\":7,\"resolutions\":7}", "", "", ""},
        {"{\"value\":\"v\",\"resolutions\":{}}", "", "", "v"},
        {"{\"value\":\"v\",\"resolutions\":{\"resolutionsPerAuthority\":null}}", "", "", "v"},
        {"{\"value\":\"v\",\"resolutions\":{\"resolutionsPerAuthority\":[]}}", "", "", "v"},
        {"[null,7,{},[]]", "", "", ""},
        {"A[" NO_MATCH "}]", "", "", "v"},
        {"A[" NO_MATCH ",\"values\":[{\"value\":{\"id\":\"i\"}}]}]", "", "", "v"},
        {"A[" MATCH "[{\"value\":{\"id\":\"i\",\"name\":\"n\"}}]}]", "i", "n", "v"},
        {"A[" MATCH "[{\"value\":{\"name\":\"n\"}}]}]", "", "n", "v"},
        {"A[" MATCH "[{\"value\":{\"id\":null,\"name\":\"n\"}}]}]", "", "n", "v"},
        {"A[" MATCH "[{\"value\":{\"id\":\"i\"}},{\"value\":{\"id\":\"j\"}}]}]", "i", "", "v"},
        {"A[" NO_MATCH "}," MATCH "[{\"value\":{\"id\":\"i\"}}]}]", "i", "", "v"},
        {"A[" NO_MATCH ",\"values\":[]}," NO_MATCH "}," MATCH "[{\"value\":{\"id\":\"i\"}}]}]", "i",
         "", "v"},
        {"A[" MATCH "[{\"value\":{\"id\":\"i\"}}]}," MATCH "[{\"value\":{\"id\":\"j\"}}]}]", "i",
         "", "v"},
        {"A[{\"values\":[{\"value\":{\"id\":\"i\"}}],\"status\":{\"code\":\"ER_SUCCESS_MATCH\"}}]",
         "i", "", "v"},
        {"A[{\"values\":[{\"value\":{\"id\":\"i\"}}],\"status\":{\"code\":\"ER_NEW_CODE\"}}," MATCH
         "[{\"value\":{\"id\":\"j\"}}]}]",
         "j", "", "v"},
        {"A[" MATCH "[]}]", "", "", "v"},
        {"A[" MATCH "null}]", "", "", "v"},
        {"A[" MATCH "[null]}]", "", "", "v"},
        {"A[" MATCH "[{\"value\":7}]}]", "", "", "v"},
        {"A[7,null,\"x\",[]," MATCH "[{\"value\":{\"id\":\"i\"}}]}]", "i", "", "v"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        char event[600];
        b32 whole = rows[i].slot[0] == 'A';
        err error;
        unit_print(
            event, sizeof event,
            "{\"request\":{\"type\":\"IntentRequest\",\"intent\":{\"slots\":{\"LINE\":%s%s%s}}}}",
            whole ? "{\"value\":\"v\",\"resolutions\":{\"resolutionsPerAuthority\":" : "",
            rows[i].slot + whole, whole ? "}}" : "");
        alexa_request *r = unit_parse(event, &error);
        CHECK_ROW(!error, event);
        CHECK_ROW(unit_is(r->member[ALEXA_SLOT_ID], rows[i].id) &&
                      unit_is(r->member[ALEXA_SLOT_NAME], rows[i].name),
                  event);
        CHECK_ROW(unit_is(r->member[ALEXA_SLOT], rows[i].value), event);
    }
}

static void test_alexa_application_id(void)
{
    static const struct {
        const char *session, *context;
        int good;
    } rows[] = {
        {"me", "me", 1},  {"me", 0, 1},      {0, "me", 1},      {0, 0, 0},     {"you", "me", 0},
        {"me", "you", 0}, {"you", 0, 0},     {0, "you", 0},     {"", "me", 0}, {"me", "", 0},
        {"ME", "me", 0},  {"mee", "mee", 0}, {"you", "you", 0}, {"m", "m", 0}, {"", 0, 0},
        {0, "", 0},       {"", "", 0},
    };
    for (iz i = 0; i < countof(rows); i++) {
        alexa_request r = {0};
        if (rows[i].session)
            r.member[ALEXA_SESSION_APP] = unit_str(rows[i].session);
        if (rows[i].context)
            r.member[ALEXA_CONTEXT_APP] = unit_str(rows[i].context);
        CHECK(alexa_is_for(&r, S("me")) == rows[i].good);
        CHECK(!alexa_is_for(&r, S("")));
    }
}

static void test_alexa_token(void)
{
    static u8 longest[ALEXA_TOKEN_MAX + 1];
    memset(longest, 'a', sizeof longest);
    CHECK(alexa_token_valid((str){longest, ALEXA_TOKEN_MAX}));
    CHECK(!alexa_token_valid((str){longest, ALEXA_TOKEN_MAX + 1}));
    CHECK(alexa_token_valid(S("aZ09-._~+/==")) && alexa_token_valid(S("a")));
    CHECK(!alexa_token_valid(S("")) && !alexa_token_valid(S("==")) && !alexa_token_valid(S("a=b")));
    CHECK(!alexa_token_valid((str){0, 0}));
    for (int c = 0; c < 256; c++) {
        u8 token[] = {'a', (u8)c, 'b'};
        b32 good = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                   (c && strchr("-._~+/", c));
        CHECK(alexa_token_valid((str){token, 3}) == good);
    }
}

/* ---- section 14: TfL and preferences ---- */

static void test_time_parsing(void)
{
    static const struct {
        char text[40];
        i64 time;
    } rows[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-11-23T08:00:00Z", 1795420800},
        {"2026-11-23T08:00:00", 1795420800},
        {"2026-11-23T08:00:00.1Z", 1795420800},
        {"2026-11-23T08:00:00.1234567Z", 1795420800},
        {"2026-11-23T08:00:00.000", 1795420800},
        {"2026-11-23T09:00:00+01:00", 1795420800},
        {"2026-11-23T09:30:00+0130", 1795420800},
        {"2026-11-23T03:00:00-05:00", 1795420800},
        {"2026-11-23T08:00:00.5+00:00", 1795420800},
        {"2024-02-29T00:00:00Z", 1709164800},
        {"2000-02-29T23:59:59Z", 951868799},
        {"2024-12-31T23:59:59Z", 1735689599},
        {"2100-03-01T00:00:00Z", 4107542400},
        {"2026-11-24T01:00:00+17:00", 1795420800},
        {"", -1},
        {"2026", -1},
        {"2026-11-23", -1},
        {"2026-11-23T08:00", -1},
        {"2026-11-23T08:00Z", -1},
        {"2026-11-23 08:00:00Z", -1},
        {"2026-11-23T08:00:00Zx", -1},
        {"2026-11-23T08:00:00 Z", -1},
        {" 2026-11-23T08:00:00Z", -1},
        {"2026-1-23T08:00:00Z", -1},
        {"26-11-23T08:00:00Z", -1},
        {"2026/11/23T08:00:00Z", -1},
        {"2026-00-23T08:00:00Z", -1},
        {"2026-13-23T08:00:00Z", -1},
        {"2026-11-00T08:00:00Z", -1},
        {"2026-11-32T08:00:00Z", -1},
        {"2026-11-31T08:00:00Z", -1},
        {"2026-02-29T08:00:00Z", -1},
        {"2100-02-29T08:00:00Z", -1},
        {"2026-11-23T25:00:00Z", -1},
        {"2026-11-23T24:00:01Z", -1},
        {"2026-11-23T08:60:00Z", -1},
        {"2026-11-23T08:00:61Z", -1},
        {"2026-11-23T08:00:00+1", -1},
        {"2026-11-23T08:00:00+0x:00", -1},
        {"2026-11-23T08:00:00+01:0", -1},
        {"2026-11-23T-8:00:00Z", -1},
        {"2026-11-23T+8:00:00Z", -1},
        {"x026-11-23T08:00:00Z", -1},
        {"1795420800", -1},
        {"1795420800000", -1},
    };
    for (iz i = 0; i < countof(rows); i++)
        CHECK_ROW(time_parse(unit_str(rows[i].text)) == rows[i].time, rows[i].text);
}

static void test_services_configured(void)
{
    static const struct {
        char base[40];
        err error;
    } rows[] = {
        {"http://127.0.0.1:8080/x", E_None},
        {"http://localhost/", E_None},
        {"http://[::1]:80/", E_None},
        {"https://api.tfl.gov.uk", E_None},
        {"http://api.tfl.gov.uk/", E_UrlInsecure},
        {"http://10.0.0.1/", E_UrlInsecure},
        {"http://128.0.0.1/", E_UrlInsecure},
        {"http://127.0.0.1.evil.example/", E_UrlInsecure},
        {"http://localhost.evil.example/", E_UrlInsecure},
        {"127.0.0.1:80", E_UrlMalformed},
        {"ftp://127.0.0.1/", E_UrlMalformed},
        {"http://127.0.0.1/?x", E_UrlMalformed},
    };
    for (iz i = 0; i < countof(rows); i++) {
        static service s;
        memset(&s, 0, sizeof s);
        service_init(&s, unit_network(0), unit_str(rows[i].base));
        CHECK_ROW(s.error == rows[i].error && s.connection.fd == -1, rows[i].base);
    }
}

static void test_skill_configured(void)
{
    static const struct {
        const char *id, *verify;
        int expected;
    } rows[] = {
        {0, 0, 0},
        {"Skill__SkillId=me", 0, 1},
        {"Skill__SkillId=me", "Skill__VerifySkillId=false", 0},
        {"Skill__SkillId=me", "Skill__VerifySkillId=False", 0},
        {"Skill__SkillId=me", "Skill__VerifySkillId=true", 1},
        {"Skill__SkillId=me", "Skill__VerifySkillId=", 1},
        {0, "Skill__VerifySkillId=true", 1},
        {"Skill__SkillId=", 0, 0},
    };
    static skill s;
    for (iz i = 0; i < countof(rows); i++) {
        const char *env[] = {"A=b", "A=b", 0};
        env[0] = rows[i].id ? rows[i].id : "A=b";
        env[1] = rows[i].verify ? rows[i].verify : "A=b";
        memset(&s, 0, sizeof s);
        skill_init(&s, unit_network(env));
        CHECK(s.verify == rows[i].expected);
        CHECK(s.preferences.error == E_PreferencesNotSet && !s.tfl.error);
        CHECK(unit_is(s.tfl.base.origin.host, "api.tfl.gov.uk") && s.tfl.base.origin.https);
        CHECK(s.tfl.base.origin.port == 443 && !s.app_id.len && !s.app_key.len);
    }
    const char *env[] = {"Skill__SkillApiUrl=http://10.0.0.1/", "Skill__TflApiUrl=nonsense", 0};
    memset(&s, 0, sizeof s);
    skill_init(&s, unit_network(env));
    CHECK(s.preferences.error == E_UrlInsecure && s.tfl.error == E_UrlMalformed);
}

/* The skill as deployed beside two loopback services; each question to it starts a new script. */
static skill *unit_skill(void)
{
    static const char *env[] = {"Skill__TflApiUrl=http://127.0.0.1:8081/tfl/",
                                "Skill__SkillApiUrl=http://127.0.0.1:8082/prefs",
                                "Skill__TflApplicationId=an id",
                                "Skill__TflApplicationKey=k/e+y&1=", 0};
    static skill s;
    memset(&s, 0, sizeof s);
    skill_init(&s, unit_network(env));
    return &s;
}

static task unit_task(skill *s, arena *a)
{
    return (task){
        .skill = s, .arena = a, .deadline = script.now + 7 * SECOND, .now = os_unix_ms() / 1000};
}

/* An answer of an upstream with that status and body, as the next stream of the script. */
static void unit_upstream(int status, const char *body)
{
    static char texts[64][40000];
    static int turn;
    char *text = texts[turn++ % 64];
    int n = unit_print(text, sizeof texts[0], "HTTP/1.1 %d x\r\nContent-Length: %zu\r\n\r\n%s",
                       status, strlen(body), body);
    if (n >= (int)sizeof texts[0])
        abort();
    script_add((str){(u8 *)text, n}, THEN_MORE);
}

static void test_tfl_requests(void)
{
    skill *s = unit_skill();
    script_start();
    unit_upstream(200, "[{\"id\":\"a\",\"name\":\"A\",\"lineStatuses\":[]}]");
    unit_upstream(200, "[]");
    script_add(S(""), THEN_END);
    unit_upstream(200, "{\"favoriteLines\":[]}");
    task t = unit_task(s, unit_arena());
    line *lines = 0;
    messages m = {0};
    line_ids ids = {0};
    str asked[] = {S("victoria"), S("hammersmith-city")};
    CHECK(!tfl_status(&t, asked, 2, &lines) && lines && unit_is(lines->name, "A"));
    CHECK(str_starts(written(&script.sent),
                     S("GET /tfl/Line/victoria%2Chammersmith-city/Status?app_id=an%20id&app_key="
                       "k%2Fe%2By%261%3D HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n")));
    CHECK(unit_count(written(&script.sent), "User-Agent: l") == 1);
    script.sent.len = 0;
    CHECK(!tfl_disruption(&t, &m) && !m.count && script.connects == 1);
    CHECK(str_starts(written(&script.sent),
                     S("GET /tfl/Line/Mode/dlr%2Celizabeth-line%2Coverground%2Ctube/"
                       "Disruption?app_id=an%20id&app_key=")));
    script.sent.len = 0;
    CHECK(!preferences_get(&t, S("tok.1+/~=="), &ids) && !ids.count && script.to.port == 8082);
    CHECK(str_starts(written(&script.sent), S("GET /prefs/api/preferences HTTP/1.1\r\n")));
    CHECK(unit_has(written(&script.sent), "\r\nAuthorization: Bearer tok.1+/~==\r\n"));
    CHECK(!unit_has(written(&script.sent), "app_key") && !script.logs);
    s->app_id = S("");
    script.sent.len = 0;
    script_start();
    unit_upstream(200, "[]");
    connection_close(&s->tfl.connection);
    tfl_status(&t, asked, 1, &lines);
    CHECK(unit_has(written(&script.sent),
                   "/Line/victoria/Status?app_key=k%2Fe%2By%261%3D HTTP/1.1\r\n"));
    s->app_key = S("");
    script_start();
    unit_upstream(200, "[]");
    s->tfl.connection.fd = -1;
    tfl_status(&t, asked, 1, &lines);
    CHECK(unit_has(written(&script.sent), "/Line/victoria/Status HTTP/1.1\r\n"));
}

/* Answers of TfL that are not lists of lines, each with its error; nothing of them is logged. */
static void test_tfl_status_refused(void)
{
    static const struct {
        int status;
        char body[80];
        err error;
    } rows[] = {
        {200, "{}", E_JsonShape},
        {200, "null", E_JsonShape},
        {200, "\"[]\"", E_JsonShape},
        {200, "[1]", E_JsonShape},
        {200, "[null]", E_JsonShape},
        {200, "[{\"id\":\"a\"}]", E_JsonShape},
        {200, "[{\"name\":\"a\"}]", E_JsonShape},
        {200, "[{\"id\":\"a\",\"name\":null}]", E_JsonShape},
        {200, "", E_JsonEmpty},
        {200, "<html>MARKER</html>", E_JsonSyntax},
        {200, "[{\"id\":\"a\",\"name\":\"MARKER\"}", E_JsonTruncated},
        {200, "[] MARKER", E_JsonTrailing},
        {200, "[{\"id\":\"a\",\"name\":\"\xff\"}]", E_JsonUtf},
        {404, "{\"relativeUri\":\"/Line?app_key=MARKER\"}", E_LineUnknown},
        {400, "MARKER", E_HttpStatus},
        {403, "MARKER", E_HttpStatus},
        {301, "MARKER", E_HttpLocation},
        {206, "[]", E_HttpStatus},
    };
    for (iz i = 0; i < countof(rows); i++) {
        skill *s = unit_skill();
        script_start();
        unit_upstream(rows[i].status, rows[i].body);
        task t = unit_task(s, unit_arena());
        line *lines = 0;
        str id = S("victoria");
        err error = tfl_status(&t, &id, 1, &lines);
        char text[120];
        unit_print(text, sizeof text, "%s: %s", rows[i].body, unit_error(error));
        CHECK_ROW(error == rows[i].error && script.logs == 1, text);
        CHECK_ROW(s->tfl.connection.net->stages.now == STAGE_SPEECH && s->log.error, text);
        CHECK_ROW(!unit_has(written(&script.log), "MARKER") &&
                      !unit_has(written(&script.log), "app_"),
                  text);
    }
}

/* A list that is larger than what is left of the arena ends in an error, and ends. */
static void test_tfl_status_without_memory(void)
{
    static char body[30000];
    for (iz lines_too = 0; lines_too < 2; lines_too++) {
        iz n = sprintf(body, "[{\"id\":\"a\",\"name\":\"b\",\"lineStatuses\":[{}");
        for (iz i = 0; i < 4000; i++) {
            const char *next =
                lines_too ? "]},{\"id\":\"a\",\"name\":\"b\",\"lineStatuses\":[" : ",{}";
            if (n + 100 > countof(body))
                break;
            n += sprintf(body + n, "%s", next);
        }
        n += sprintf(body + n, "]}]");
        for (iz room = 0; room < 6000; room += 100) {
            skill *s = unit_skill();
            script_start();
            arena *a = unit_small_arena(room);
            task t = unit_task(s, a);
            line *lines = 0;
            json j;
            json_start(&j, (str){(u8 *)body, n}, a);
            tfl_parse_lines(&j, t.now, &lines);
            err error = json_finish(&j);
            if (room == 1000)
                CHECK(error == E_OutOfMemory);
            CHECK(error);
            arena_reset(a);
        }
    }
}

static void test_tfl_disruption_list(void)
{
#define D(text) "{\"category\":\"RealTime\",\"description\":\"" text "\"}"
    static const struct {
        char body[400];
        err error;
        char expected[120]; /* joined by '|'; the text may have a full stop added */
    } rows[] = {
        {"[]", E_None, ""},
        {"[" D("Alpha.") "]", E_None, "Alpha."},
        {"[" D("B one.") "," D("a two.") "," D("C three.") "]", E_None, "a two.|B one.|C three."},
        {"[" D("Same.") "," D("SAME.") "," D(" same.  ") "]", E_None, "Same."},
        {"[" D("One  two.") "," D("one two.") "," D("One \\n\\ttwo.") "]", E_None, "One two."},
        {"[" D("SAME.") "," D("Same.") "]", E_None, "SAME."},
        {"[" D("") "," D("  ") ",{\"description\":null},{},{\"description\":5},null,7,[]," D(
             "X.") "]",
         E_None, "X."},
        {"[" D("B.") "," D("A.") "," D("b.") "," D("a.") "]", E_None, "A.|B."},
        {"[" D("Minor delays on the line.") "," D("Minor delays.") "]", E_None,
         "Minor delays on the line.|Minor delays."},
        {"[" D("Minor delays") "," D("Minor delays on the line") "]", E_None,
         "Minor delays.|Minor delays on the line."},
        {"[{\"description\":\"First.\",\"description\":\"Second.\"}]", E_None, "First."},
        {"{}", E_JsonShape, ""},
        {"null", E_JsonShape, ""},
        {"[" D("A."), E_JsonTruncated, ""},
        {"<html>", E_JsonSyntax, ""},
        {"", E_JsonEmpty, ""},
    };
    for (iz i = 0; i < countof(rows); i++) {
        skill *s = unit_skill();
        script_start();
        unit_upstream(200, rows[i].body);
        task t = unit_task(s, unit_arena());
        messages m = {0};
        char got[400] = "";
        CHECK_ROW(tfl_disruption(&t, &m) == rows[i].error, rows[i].body);
        for (iz k = 0; k < m.count && !rows[i].error; k++)
            unit_print(got + strlen(got), sizeof got - strlen(got), "%s%.*s", k ? "|" : "",
                       (int)m.text[k].len, m.text[k].ptr);
        if (!rows[i].error) {
            char row[600];
            unit_print(row, sizeof row, "%s: %s", rows[i].body, got);
            CHECK_ROW(!strcmp(got, rows[i].expected), row);
        }
    }
}

/* Any number of messages: those that do not fit are not said, the order stays. */
static void test_tfl_disruption_many(void)
{
    static char body[40000];
    iz n = sprintf(body, "[");
    for (int i = 0; i < 500; i++)
        n += sprintf(body + n, "%s{\"description\":\"M %03d.\"}", i ? "," : "", i * 7919 % 500);
    sprintf(body + n, "]");
    skill *s = unit_skill();
    script_start();
    unit_upstream(200, body);
    task t = unit_task(s, unit_arena());
    static messages m;
    memset(&m, 0, sizeof m);
    tfl_disruption(&t, &m);
    CHECK(m.count > 0 && m.count <= MESSAGES_MAX);
    for (iz i = 1; i < m.count; i++)
        CHECK(str_order_nocase(m.text[i - 1], m.text[i]) < 0);
}

static void test_preferences_lines(void)
{
    static const struct {
        int status;
        char body[160];
        err error;
        char ids[100];
        int logs;
    } rows[] = {
        {200, "{\"favoriteLines\":[\"victoria\"],\"userId\":\"u\"}", E_None, "victoria", 0},
        {200, "{\"favoriteLines\":[]}", E_None, "", 0},
        {200, "{\"favoriteLines\":[\"a\",\"b\",\"a\"]}", E_None, "a b", 0},
        {200, "{\"favoriteLines\":[\"tfl-rail\",\"elizabeth\"]}", E_None, "elizabeth", 0},
        {200, "{\"favoriteLines\":[\"weaver\",\"london-overground\"]}", E_None,
         "weaver liberty lioness mildmay suffragette windrush", 0},
        {200, "{\"favoriteLines\":[\"brand-new-line-7\"]}", E_None, "brand-new-line-7", 0},
        {200,
         "{\"favoriteLines\":[\"A\",\"a b\",\"a/b\",\"a%2f\",\"\",\"caf\\u00e9\",\"a?\",\"ok\"]}",
         E_None, "ok", 1},
        {200, "{\"favoriteLines\":[1,null,{},[\"x\"],\"ok\"]}", E_None, "ok", 1},
        {200, "{\"favoriteLines\":[\"a\"],\"favoriteLines\":[\"b\"]}", E_None, "a", 0},
        {200, "{\"favoriteLines\":null}", E_JsonShape, "", 1},
        {200, "{\"favoriteLines\":\"victoria\"}", E_JsonShape, "", 1},
        {200, "{}", E_JsonShape, "", 1},
        {200, "[]", E_JsonShape, "", 1},
        {200, "", E_JsonEmpty, "", 1},
        {200, "<html>", E_JsonSyntax, "", 1},
        {401, "{}", E_AccessTokenRefused, "", 1},
        {403, "", E_AccessTokenRefused, "", 1},
        {404, "", E_HttpStatus, "", 1},
    };
    for (iz i = 0; i < countof(rows); i++) {
        skill *s = unit_skill();
        script_start();
        unit_upstream(rows[i].status, rows[i].body);
        task t = unit_task(s, unit_arena());
        line_ids ids = {0};
        char got[200] = "";
        err error = preferences_get(&t, S("TOKEN"), &ids);
        for (iz k = 0; k < ids.count; k++)
            unit_print(got + strlen(got), sizeof got - strlen(got), "%s%.*s", k ? " " : "",
                       (int)ids.id[k].len, ids.id[k].ptr);
        CHECK_ROW(error == rows[i].error && script.logs == rows[i].logs, rows[i].body);
        CHECK_ROW(error || !strcmp(got, rows[i].ids), rows[i].body);
        CHECK_ROW(!unit_has(written(&script.log), "TOKEN"), rows[i].body);
    }
    CHECK(line_id_valid(S("a-0")) && !line_id_valid(S("")) && !line_id_valid(S("A")));
    for (int c = 0; c < 256; c++) {
        u8 id[] = {'a', (u8)c};
        CHECK(line_id_valid((str){id, 2}) ==
              ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'));
    }
}

/* ---- sections 13, 15 and 16: what is asked and what is said ---- */

/* Handles an event on the clock and streams of the script. Whatever comes of it is one valid JSON
 * value within the bounds of a response, and the time is kept. */
static str unit_handle(skill *s, str event)
{
    invocation i = {.request_id = S("req-1"), .event = event};
    str response = {0, 0};
    arena *a = unit_arena();
    i64 start = script.now;
    i.deadline = start + 7 * SECOND;
    err error = skill_handle(s, &i, a, &response);
    CHECK_ROW(!error, unit_error(error));
    if (error)
        return S("");
    CHECK(strict_json(response) && response.len < 24 * 1024);
    CHECK(unit_is(strict_string_at(response, "version"), "1.0"));
    CHECK(script.now - start <= 7 * SECOND && !script.faults);
    return response;
}

/* An event of a request, with more members of the session. */
static str unit_request(const char *request, const char *session)
{
    static char event[8192];
    unit_print(event, sizeof event,
               "{\"version\":\"1.0\",\"session\":{\"new\":false,\"sessionId\":\"SESSIONMARK\"%s%s},"
               "\"context\":{\"System\":{\"application\":{\"applicationId\":\"APPMARK\"}}},"
               "\"request\":{%s}}",
               *session ? "," : "", session, request);
    return unit_str(event);
}

static str unit_intent(const char *intent, const char *said, const char *session)
{
    char request[1024];
    unit_print(
        request, sizeof request,
        "\"type\":\"IntentRequest\",\"intent\":{\"name\":\"%s\",\"slots\":{\"LINE\":{%s%s%s}}}",
        intent, *said ? "\"value\":\"" : "", said, *said ? "\"" : "");
    return unit_request(request, session);
}

static str unit_speech(str response)
{
    return strict_string_at(response, "response.outputSpeech.ssml");
}

/* SSML as the skill may say it: <speak>, paragraphs that are not empty, escapes, UTF-8; and no
 * stops, blanks or words doubled. */
static b32 unit_ssml_good(str s)
{
    static const char doubled[][12] = {"..", "  ", "line line", "Line line", "> "};
    if (!str_starts(s, S("<speak>")) || !str_ends(s, S("</speak>")) || s.len > 8000)
        return 0;
    for (iz i = 0; i < countof(doubled); i++)
        if (unit_has(s, doubled[i]))
            return 0;
    str in = str_span(s, 7, s.len - 8);
    b32 paragraph = 0, many = str_starts(in, S("<p>"));
    for (iz i = 0; i < in.len; i++) {
        str rest = str_from(in, i);
        if (rest.ptr[0] == '<') {
            b32 shut = str_starts(rest, S("</p>"));
            if ((!shut && !str_starts(rest, S("<p>"))) || paragraph != shut || !many)
                return 0;
            if (!shut && str_starts(rest, S("<p></p>")))
                return 0;
            paragraph = !shut;
            i += shut ? 3 : 2;
        } else if (rest.ptr[0] == '>' || rest.ptr[0] < ' ' || (many && !paragraph)) {
            return 0;
        } else if (rest.ptr[0] == '&') {
            if (!str_starts(rest, S("&amp;")) && !str_starts(rest, S("&lt;")) &&
                !str_starts(rest, S("&gt;")))
                return 0;
        }
    }
    return !paragraph && in.len > 0 && strict_text(in);
}

/* Rules for every answer that speaks: the microphone is open if and only if a question was asked,
 * and then there is a reprompt and something to repeat. */
static void unit_check_spoken(str response, const char *row)
{
    str ssml = unit_speech(response), again;
    b32 open = unit_is(strict_at(response, "response.shouldEndSession"), "false");
    b32 shut = unit_is(strict_at(response, "response.shouldEndSession"), "true");
    CHECK_ROW(unit_is(strict_string_at(response, "response.outputSpeech.type"), "SSML"), row);
    CHECK_ROW(unit_ssml_good(ssml), row);
    CHECK_ROW(open != shut && open == unit_has(ssml, "?"), row);
    again = strict_string_at(response, "response.reprompt.outputSpeech.ssml");
    CHECK_ROW(open ? unit_ssml_good(again) && unit_has(again, "?") : !again.ptr, row);
    CHECK_ROW(open == (strict_at(response, "sessionAttributes").ptr != 0), row);
    str title = strict_string_at(response, "response.card.title");
    str text = strict_string_at(response, "response.card.text");
    CHECK_ROW(title.len + text.len <= 8000, row);
    if (unit_is(strict_string_at(response, "response.card.type"), "Standard"))
        CHECK_ROW(title.len && text.len && !unit_has(text, "  ") && !unit_has(text, ".."), row);
    CHECK_ROW(!unit_has(response, "MARK") && !unit_has(written(&script.log), "MARK"), row);
}

/* Are the texts of a list, parted by '|', all in s, one behind the other? */
static b32 unit_has_all(str s, const char *list)
{
    iz at = 0;
    str rest = unit_str(list);
    while (rest.len) {
        char text[200];
        str one = str_cut(&rest, '|');
        unit_print(text, sizeof text, "%.*s", (int)one.len, one.ptr);
        if ((at = unit_index(s, text, at)) < 0)
            return 0;
        at += one.len;
    }
    return 1;
}

static b32 unit_has_any(str s, const char *list)
{
    str rest = unit_str(list);
    while (rest.len) {
        char text[200];
        str one = str_cut(&rest, '|');
        unit_print(text, sizeof text, "%.*s", (int)one.len, one.ptr);
        if (unit_has(s, text))
            return 1;
    }
    return 0;
}

/* What a line is called, in the words of the issue, and what TfL is then asked for. */
static void test_line_names(void)
{
    static const struct {
        char said[40], asked[80];
    } rows[] = {
        {"bakerloo", "bakerloo"},
        {"central", "central"},
        {"circle", "circle"},
        {"district", "district"},
        {"hammersmith and city", "hammersmith-city"},
        {"hammersmith & city", "hammersmith-city"},
        {"hammersmith", "hammersmith-city"},
        {"h and c", "hammersmith-city"},
        {"h & c", "hammersmith-city"},
        {"h&c", "hammersmith-city"},
        {"h. and c.", "hammersmith-city"},
        {"jubilee", "jubilee"},
        {"metropolitan", "metropolitan"},
        {"met", "metropolitan"},
        {"northern", "northern"},
        {"piccadilly", "piccadilly"},
        {"victoria", "victoria"},
        {"waterloo and city", "waterloo-city"},
        {"waterloo & city", "waterloo-city"},
        {"waterloo", "waterloo-city"},
        {"city", "waterloo-city"},
        {"the drain", "waterloo-city"},
        {"drain", "waterloo-city"},
        {"dlr", "dlr"},
        {"d.l.r.", "dlr"},
        {"d. l. r.", "dlr"},
        {"d l r", "dlr"},
        {"docklands", "dlr"},
        {"docklands light railway", "dlr"},
        {"docklands rail", "dlr"}, /* as the model of the existing deployment has it */
        {"elizabeth", "elizabeth"},
        {"crossrail", "elizabeth"},
        {"liz", "elizabeth"},
        {"lizzie", "elizabeth"},
        {"lizzy", "elizabeth"},
        {"liberty", "liberty"},
        {"lioness", "lioness"},
        {"mildmay", "mildmay"},
        {"suffragette", "suffragette"},
        {"weaver", "weaver"},
        {"windrush", "windrush"},
        {"overground", "liberty%2Clioness%2Cmildmay%2Csuffragette%2Cweaver%2Cwindrush"},
        {"london overground", "liberty%2Clioness%2Cmildmay%2Csuffragette%2Cweaver%2Cwindrush"},
        {"london-overground", "liberty%2Clioness%2Cmildmay%2Csuffragette%2Cweaver%2Cwindrush"},
        {"hammersmith-city", "hammersmith-city"},
        {"waterloo-city", "waterloo-city"},
    };
    static const char forms[][20] = {"%s",    "the %s",        "%s line", "the %s line",
                                     "  %s ", "The  %s  Line", "%s.",     "THE %s LINE"};
    for (iz i = 0; i < countof(rows); i++)
        for (iz k = 0; k < (str_starts(unit_str(rows[i].said), S("the ")) ? 1 : countof(forms));
             k++)
            for (int upper = 0; upper < 2; upper++) {
                char said[80], expected[128];
                skill *s = unit_skill();
                unit_print(said, sizeof said, k ? forms[k] : "%s", rows[i].said);
                for (char *c = said; upper && *c; c++)
                    *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
                unit_print(expected, sizeof expected, "/Line/%s/Status?", rows[i].asked);
                script_start();
                unit_upstream(200, "[]");
                unit_handle(s, unit_intent("StatusIntent", said, ""));
                CHECK_ROW(unit_has(written(&script.sent), expected), said);
            }
}

/* The resolved id comes first, then the resolved name, then what was spoken. */
static void test_line_resolution(void)
{
    static const struct {
        char id[16], name[16], value[16], asked[16];
    } rows[] = {
        {"victoria", "Central", "district", "victoria"},
        {"elizabeth-line", "Central", "district", "elizabeth"},
        {"unknown", "Central", "district", "central"},
        {"", "Central", "district", "central"},
        {"unknown", "unknown", "district", "district"},
        {"unknown", "unknown", "unknown", ""},
    };
    for (iz i = 0; i < countof(rows); i++) {
        char request[600], expected[40];
        skill *s = unit_skill();
        unit_print(request, sizeof request,
                   "\"type\":\"IntentRequest\",\"intent\":{\"name\":\"StatusIntent\",\"slots\":{"
                   "\"LINE\":{\"value\":\"%s\",\"resolutions\":{\"resolutionsPerAuthority\":[{"
                   "\"status\":{\"code\":\"ER_SUCCESS_MATCH\"},\"values\":[{\"value\":{\"name\":"
                   "\"%s\",\"id\":\"%s\"}}]}]}}}}",
                   rows[i].value, rows[i].name, rows[i].id);
        unit_print(expected, sizeof expected, "/Line/%s/Status?", rows[i].asked);
        script_start();
        unit_upstream(200, "[]");
        str response = unit_handle(s, unit_request(request, ""));
        CHECK_ROW(rows[i].asked[0] ? unit_has(written(&script.sent), expected) : !script.sent.len,
                  rows[i].id);
        unit_check_spoken(response, rows[i].id);
    }
}

static void test_line_not_known(void)
{
    static const char rows[][40] = {
        "",           "jubilee and central", "the", "line",      "the line", "picadilly circus",
        "\\u00e9",    "vict\\u0000oria",     "   ", "victoriaa", "london",   "?",
        "underground"};
    for (iz i = 0; i < countof(rows); i++) {
        skill *s = unit_skill();
        script_start();
        str response = unit_handle(s, unit_intent("StatusIntent", rows[i], ""));
        unit_check_spoken(response, rows[i]);
        CHECK_ROW(unit_is(strict_at(response, "response.shouldEndSession"), "false"), rows[i]);
        CHECK_ROW(unit_has(unit_speech(response), "hich line") && !script.connects, rows[i]);
    }
}

/* ---- speech of a status ---- */

/* The answer to a question about a line for which TfL gives that name and these statuses. */
static str unit_status(const char *said, const char *name, const char *statuses)
{
    static char body[40000];
    skill *s = unit_skill();
    script_start();
    unit_print(
        body, sizeof body,
        "[{\"$type\":\"Line\",\"id\":\"%s\",\"name\":\"%s\",\"modeName\":\"tube\",\"lineStatuses\":"
        "[%s],\"routeSections\":[]}]",
        said, name, statuses);
    unit_upstream(200, body);
    str response = unit_handle(s, unit_intent("StatusIntent", said, ""));
    unit_check_spoken(response, statuses);
    return response;
}

/* Occurrences without regard to case. */
static iz unit_count_nocase(str s, str word)
{
    iz count = 0;
    for (iz i = 0; i + word.len <= s.len; i++)
        count += str_eq_nocase(str_span(s, i, i + word.len), word);
    return count;
}

#define SEV(n, reason) "{\"statusSeverity\":" #n ",\"reason\":\"" reason "\"}"
#define NOW(n, reason, periods) \
    "{\"statusSeverity\":" #n ",\"reason\":\"" reason "\",\"validityPeriods\":[" periods "]}"
#define BETWEEN(from, to) "{\"fromDate\":\"" from "\",\"toDate\":\"" to "\"}"
#define LATER BETWEEN("2026-11-28T00:30:00Z", "2026-11-29T01:29:00Z")
#define PAST BETWEEN("2026-11-21T00:30:00Z", "2026-11-22T01:29:00Z")
#define GOOD "{\"statusSeverity\":10,\"statusSeverityDescription\":\"Good Service\"}"

static const struct {
    char said[16], name[20], statuses[500];
    char has[160], has_not[120]; /* of the speech; the texts of a list are parted by '|' */
} unit_status_rows[] = {
    {"victoria", "Victoria", GOOD, "good service|Victoria line", "Victoria line:"},
    {"dlr", "DLR", GOOD, "good service|D.L.R.", "DLR|D.L.R. line"},
    {"elizabeth", "Elizabeth line", GOOD, "good service|Elizabeth line", ""},
    {"waterloo", "Waterloo & City", GOOD, "good service|Waterloo and City line", "&"},
    {"victoria", "Victoria",
     "{\"statusSeverity\":20,\"statusSeverityDescription\":\"Service Closed\"}", "closed", "good"},
    {"victoria", "Victoria", "", "unknown", "good"},
    {"victoria", "Victoria", SEV(6, "Severe delays due to a signal failure."),
     "Severe delays due to a signal failure.", ""},
    /* TfL's prefix */
    {"victoria", "Victoria", SEV(6, "VICTORIA LINE: A signal failed. "),
     "Victoria line|A signal failed.", "VICTORIA|line:"},
    {"victoria", "Victoria", SEV(6, "Victoria Line: A signal failed."), "A signal failed.",
     "Line:"},
    {"victoria", "Victoria", SEV(6, "Victoria line : A signal failed."), "A signal failed.",
     "line :"},
    {"circle", "Circle", SEV(6, "Circle: A signal failed."), "A signal failed.", "Circle:"},
    {"waterloo", "Waterloo & City", SEV(6, "Waterloo and City Line: No service."), "No service.",
     "Line:|line:"},
    {"waterloo", "Waterloo & City", SEV(6, "WATERLOO & CITY LINE: No service."), "No service.",
     "LINE:|line:"},
    {"hammersmith", "Hammersmith & City", SEV(6, "Hammersmith and City Line: No service."),
     "No service.", "Line:|line:"},
    {"dlr", "DLR", SEV(9, "Docklands Light Railway: No service."), "D.L.R.|No service.",
     "Railway:"},
    {"dlr", "DLR", SEV(9, "DLR: No service."), "No service.", "R.: |R: "},
    {"elizabeth", "Elizabeth line", SEV(9, "Elizabeth line: No service."), "No service.", "line:"},
    {"victoria", "Victoria", SEV(6, "CIRCLE LINE: A signal failed."),
     "CIRCLE LINE: A signal failed.", ""},
    {"victoria", "Victoria", SEV(6, "Please note: no trains call at Pimlico."),
     "Please note: no trains call at Pimlico.", ""},
    {"victoria", "Victoria", SEV(6, "No trains from 21:30 until 23:00."),
     "No trains from 21:30 until 23:00.", ""},
    {"victoria", "Victoria", SEV(6, "Victoria Line: Trains from 21:30: none."),
     "Trains from 21:30: none.", "Line:"},
    /* distinct reasons, the worst first */
    {"victoria", "Victoria", SEV(6, "One.") "," SEV(9, "One.") "," SEV(6, "One. "), "One.",
     "One. One"},
    {"victoria", "Victoria", SEV(9, "Some are late.") "," SEV(6, "All are late."),
     "All are late.|Some are late.", ""},
    {"victoria", "Victoria", SEV(6, "All are late.") "," SEV(9, "Some are late."),
     "All are late.|Some are late.", ""},
    {"victoria", "Victoria",
     SEV(9, "Late.") "," SEV(3, "North part.") "," SEV(2, "None run.") "," SEV(6, "Slow."),
     "None run.|North part.|Slow.|Late.", ""},
    {"victoria", "Victoria", SEV(0, "A special timetable.") "," SEV(2, "None run."),
     "None run.|A special timetable.", ""},
    {"victoria", "Victoria", SEV(9, "Late.") "," SEV(20, "The night is over."),
     "The night is over.|Late.", ""},
    {"victoria", "Victoria", SEV(9, "Late.") "," SEV(16, "None run."), "None run.|Late.", ""},
    {"victoria", "Victoria", SEV(9, "Late.") "," SEV(1, "It is shut."), "It is shut.|Late.", ""},
    {"victoria", "Victoria", SEV(19, "A poster.") "," SEV(9, "Late."), "Late.|A poster.", ""},
    {"victoria", "Victoria",
     SEV(9, "Ra.") "," SEV(9, "Rb.") "," SEV(6, "Rc.") "," SEV(9, "Rx.") "," SEV(9, "Re.") "," SEV(
         9, "Rf."),
     "Rc.|Ra.|Rb.|Rx.|Re.|Rf.", ""},
    {"victoria", "Victoria", GOOD "," SEV(9, "Late."), "Late.", "good service"},
    {"victoria", "Victoria", SEV(9, "Late.") "," GOOD, "Late.", "good service"},
    /* what applies now: it is the 23rd of November, 8 o'clock */
    {"victoria", "Victoria", NOW(4, "Shut on Sunday.", LATER) "," GOOD, "good service", "Sunday"},
    {"victoria", "Victoria", NOW(2, "Shut on Sunday.", LATER) "," SEV(9, "Late."), "Late.",
     "Sunday"},
    {"victoria", "Victoria", NOW(2, "Was shut.", PAST) "," SEV(9, "Late."), "Late.", "Was"},
    {"victoria", "Victoria", NOW(6, "Slow.", ""), "Slow.", ""},
    {"victoria", "Victoria",
     NOW(6, "Slow.", PAST "," LATER "," BETWEEN("2026-11-23T08:00:00Z", "2026-11-23T09:00:00Z")),
     "Slow.", ""},
    {"victoria", "Victoria",
     NOW(6, "Slow.", BETWEEN("2026-11-23T07:00:00Z", "2026-11-23T08:00:00Z")), "Slow.", ""},
    {"victoria", "Victoria",
     NOW(6, "Slow.", BETWEEN("2026-11-23T08:00:01Z", "2026-11-23T09:00:00Z")) "," GOOD,
     "good service", "Slow"},
    {"victoria", "Victoria",
     NOW(6, "Slow.", BETWEEN("2026-11-23T07:00:00Z", "2026-11-23T07:59:59Z")) "," GOOD,
     "good service", "Slow"},
    {"victoria", "Victoria", NOW(6, "Slow.", "{\"isNow\":true}"), "Slow.", ""},
    {"victoria", "Victoria",
     NOW(6, "Slow.", "{\"fromDate\":\"x\",\"toDate\":null,\"isNow\":true}") "," GOOD, "Slow.",
     "good"},
    {"victoria", "Victoria", NOW(6, "Slow.", "{\"isNow\":false}") "," GOOD, "good service", "Slow"},
    {"victoria", "Victoria", NOW(6, "Slow.", "{\"isNow\":\"true\"}") "," GOOD, "good service",
     "Slow"},
    {"victoria", "Victoria", "{\"statusSeverity\":6,\"reason\":\"Slow.\",\"validityPeriods\":null}",
     "Slow.", ""},
    /* a severity that is not in the table, or none */
    {"victoria", "Victoria",
     "{\"statusSeverity\":77,\"statusSeverityDescription\":\"Strange Times\"}", "Strange Times",
     "good"},
    {"victoria", "Victoria", SEV(77, "Odd."), "Odd.", "good"},
    {"victoria", "Victoria", "{\"statusSeverity\":-1,\"reason\":\"Odd.\"}", "Odd.", "good"},
    {"victoria", "Victoria", "{\"statusSeverityDescription\":\"Strange Times\"}", "Strange Times",
     "good"},
    {"victoria", "Victoria", "{\"statusSeverity\":\"6\",\"reason\":\"Odd.\"}", "Odd.", "good"},
    {"victoria", "Victoria", "{\"statusSeverity\":21}", "unknown", "good"},
    {"victoria", "Victoria", "{}", "unknown", "good"},
    {"victoria", "Victoria", "null,7,[]", "unknown", "good"},
    {"victoria", "Victoria", "{\"statusSeverity\":6,\"reason\":null}",
     "severe delays|Victoria line", ""},
    {"victoria", "Victoria", "{\"statusSeverity\":6,\"reason\":\"  \"}",
     "severe delays|Victoria line", ""},
    /* the line is named once where TfL names it too */
    {"victoria", "Victoria", SEV(9, "Minor delays on the Victoria line due to a fault."),
     "Minor delays on the Victoria line due to a fault.", ""},
    {"dlr", "DLR", SEV(9, "Minor delays on the DLR."), "Minor delays on the D.L.R.", ""},
    {"waterloo", "Waterloo & City", SEV(9, "Delays on the Waterloo and City line."),
     "Delays on the Waterloo and City line.", ""},
    {"elizabeth", "Elizabeth line", SEV(9, "Delays on the Elizabeth Line."),
     "Delays on the Elizabeth", ""},
    /* untidy texts */
    {"victoria", "Victoria", SEV(9, "  Delays   at\\r\\n Pimlico..  Sorry...  "),
     "Delays at Pimlico. Sorry.", ""},
    {"victoria", "Victoria", SEV(6, "Victoria Line: Severe delays.") "," SEV(10, " "),
     "Severe delays.", "good service"},
    {"victoria", "Victoria", SEV(6, "Victoria Line:"), "severe delays on the Victoria line.",
     ". ."},
    {"victoria", "Victoria", SEV(6, "Victoria Line: VICTORIA LINE: No trains."), "No trains.",
     "LINE:"},
    {"hammersmith", "Hammersmith & City", SEV(9, "Hammersmith: the station is closed."),
     "Hammersmith: the station is closed.", ""},
    {"victoria", "Victoria", SEV(9, "No stop at the end"), "No stop at the end.", ""},
    {"victoria", "Victoria", SEV(9, "A <b>bold</b> text & more \\u0001\\u0000x"),
     "A &lt;b&gt;bold&lt;/b&gt; text and more x", "<b>"},
    {"victoria", "Victoria", SEV(9, "Really?") "," GOOD, "Really?", ""},
};

static void test_speech_of_statuses(void)
{
    for (iz i = 0; i < countof(unit_status_rows); i++) {
        char name[40], row[1200];
        iz before = failed;
        skill *s = unit_skill();
        static char body[2000];
        script_start();
        unit_print(body, sizeof body, "[{\"id\":\"%s%s\",\"name\":\"%s\",\"lineStatuses\":[%s]}]",
                   unit_status_rows[i].said, strchr(unit_status_rows[i].name, '&') ? "-city" : "",
                   unit_status_rows[i].name, unit_status_rows[i].statuses);
        unit_upstream(200, body);
        str response = unit_handle(s, unit_intent("StatusIntent", unit_status_rows[i].said, ""));
        str ssml = unit_speech(response);
        unit_print(row, sizeof row, "%s: %.*s", unit_status_rows[i].statuses, (int)ssml.len,
                   ssml.ptr);
        if (!unit_has(ssml, "?"))
            unit_check_spoken(response, row);
        CHECK_ROW(unit_has_all(ssml, unit_status_rows[i].has), row);
        CHECK_ROW(!unit_has_any(ssml, unit_status_rows[i].has_not), row);
        str called = unit_str(unit_status_rows[i].name);
        str amp = called;
        str first = str_cut(&amp, '&');
        unit_print(name, sizeof name, "%.*s%s%.*s%s", (int)first.len, first.ptr,
                   amp.len ? "and" : "", (int)amp.len, amp.ptr,
                   str_ends(called, S("line")) ? "" : " line");
        str spoken = str_eq(called, S("DLR")) ? S("D.L.R.") : unit_str(name);
        CHECK_ROW(unit_count_nocase(ssml, spoken) == 1, row);
        CHECK_ROW(script.logs == 0 || failed > before, row);
    }
}

/* Without a reason each number of the contract's table is said in its words. */
static void test_speech_of_severities(void)
{
    static const char words[][24] = {
        "special service",
        "closed",
        "suspended",
        "part suspended",
        "planned closure",
        "part closure",
        "severe delays",
        "reduced service",
        "bus service",
        "minor delays",
        "good service",
        "part closed",
        "exit only",
        "no step free access",
        "change of frequency",
        "diverted",
        "not running",
        "issues reported",
        "no issues",
        "information",
        "closed",
    };
    for (int i = 0; i < countof(words); i++) {
        char status[100];
        unit_print(status, sizeof status,
                   "{\"statusSeverity\":%d,\"statusSeverityDescription\":\"Misleading\"}", i);
        str ssml = unit_speech(unit_status("victoria", "Victoria", status));
        CHECK_ROW(unit_has(ssml, words[i]) && !unit_has(ssml, "Misleading"), words[i]);
        CHECK_ROW(unit_count(ssml, "ictoria line") == 1, words[i]);
        unit_print(status, sizeof status, "{\"statusSeverity\":%d,\"reason\":\"The reason.\"}", i);
        ssml = unit_speech(unit_status("victoria", "Victoria", status));
        CHECK_ROW(unit_has(ssml, "The reason.") && unit_count(ssml, "ictoria line") == 1, words[i]);
    }
}

/* What is written, and how it is said. */
static void test_speech_verbalised(void)
{
    static const struct {
        char text[80], said[100];
    } rows[] = {
        {"High St Kensington is shut.", "High Street Kensington is shut."},
        {"Trains end at Liverpool St.", "Trains end at Liverpool Street."},
        {"Between Liverpool St and Bank.", "Between Liverpool Street and Bank."},
        {"Old St, Bond St, Goodge St shut.", "Old Street, Bond Street, Goodge Street shut."},
        {"From Baker St to Aldgate.", "From Baker Street to Aldgate."},
        {"Warren St/Euston.", "Warren Street/Euston."},
        {"(Cannon St)", "(Cannon Street)"},
        {"King's Cross St Pancras is shut.", "King's Cross St Pancras is shut."},
        {"King's Cross St. Pancras is shut.", "King's Cross St. Pancras is shut."},
        {"At St Pancras now.", "At St Pancras now."},
        {"St Pancras is shut.", "St Pancras is shut."},
        {"At St Paul's now.", "At St Paul's now."},
        {"St Pauls is shut.", "St Pauls is shut."},
        {"At St Paul\\u2019s now.", "At St Paul\xe2\x80\x99s now."},
        {"At St James's Park now.", "At St James's Park now."},
        {"Near St James\\u2019s Park now.", "Near St James\xe2\x80\x99s Park now."},
        {"Between St James' Park now.", "Between St James' Park now."},
        {"Closed St John's Wood.", "Closed St John's Wood."},
        {"Closed St Johns Wood.", "Closed St Johns Wood."},
        {"Closed St John\\u2019s Wood.", "Closed St John\xe2\x80\x99s Wood."},
        {"Liverpool St, St Pancras.", "Liverpool Street, St Pancras."},
        {"Liverpool St St Paul's.", "Liverpool Street St Paul's."},
        {"Chancery Lane St Paul's.", "Chancery Lane St Paul's."},
        {"The church at St Botolph.", "The church at St Botolph."},
        {"Best Stop Staff.", "Best Stop Staff."},
        {"Street and Station.", "Street and Station."},
        {"All n/b trains.", "All northbound trains."},
        {"All N/B, s/b, S/B trains.", "All northbound, southbound, southbound trains."},
        {"E/b and w/b.", "eastbound and westbound."},
        {"The e/b (W/B) line.", "The eastbound (westbound) line."},
        {"In/by n/bank and/b.", "In/by n/bank and/b."},
        {"Use the DLR now.", "Use the D.L.R. now."},
        {"Use the DLR.", "Use the D.L.R."},
        {"DLR, DLR.", "D.L.R., D.L.R."},
        {"TfL is sorry. TfL.", "T.F.L. is sorry. T.F.L."},
        {"TFL is sorry.", "T.F.L. is sorry."},
        {"Bank & Monument.", "Bank and Monument."},
        {"Bank&Monument.", "Bank and Monument."},
        {"1 < 2 > 1.", "1 &lt; 2 &gt; 1."},
        {"\\\"Quoted\\\" 'text'.", "\"Quoted\" 'text'."},
        {"Caf\\u00e9 \\ud83d\\ude87.", "Caf\xc3\xa9 \xf0\x9f\x9a\x87."},
    };
    for (iz i = 0; i < countof(rows); i++) {
        char status[300], row[400], said[128];
        unit_print(status, sizeof status, "{\"statusSeverity\":9,\"reason\":\"%s\"}", rows[i].text);
        str response = unit_status("victoria", "Victoria", status), ssml = unit_speech(response);
        unit_print(said, sizeof said, " %s", rows[i].said);
        unit_print(row, sizeof row, "%s: %.*s", rows[i].text, (int)ssml.len, ssml.ptr);
        CHECK_ROW(unit_has(ssml, said) || unit_has(ssml, said + 1), row);
        if (unit_has(rows[i].text[0] ? unit_str(rows[i].text) : S(""), "\\"))
            continue;
        CHECK_ROW(unit_has(strict_string_at(response, "response.card.text"), rows[i].text), row);
    }
}

static void test_speech_overground(void)
{
#define LINE(name, statuses) "{\"id\":\"x\",\"name\":\"" name "\",\"lineStatuses\":[" statuses "]}"
#define SIX(a, b, c)                                                                  \
    "[" LINE("Liberty", a) "," LINE("Lioness", GOOD) "," LINE("Mildmay", b) "," LINE( \
        "Suffragette", GOOD) "," LINE("Weaver", GOOD) "," LINE("Windrush", c) "]"
    static const struct {
        char body[1400], has[100], has_not[60];
    } rows[] = {
        {SIX(GOOD, GOOD, GOOD), "good service|London Overground", "Liberty|Overground line"},
        {SIX(GOOD, SEV(6, "A tree fell."), GOOD), "Mildmay line|A tree fell.|good service",
         "Liberty"},
        {SIX(SEV(9, "One."), SEV(6, "Two."), SEV(6, "Three.")), "One.|Two.|Three.|good service",
         ""},
        {SIX(GOOD, "", GOOD), "Mildmay line|unknown|good service", ""},
        {"[" LINE("Liberty", SEV(6, "A strike.")) "," LINE("Lioness", SEV(6, "A strike.")) "]",
         "A strike.", "good"},
        {"[" LINE("Liberty", "") "," LINE("Lioness", "") "]", "unknown", "good"},
        {SIX(GOOD, NOW(4, "Later.", LATER) "," GOOD, GOOD), "good service", "Later"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        skill *s = unit_skill();
        script_start();
        unit_upstream(200, rows[i].body);
        str response = unit_handle(s, unit_intent("StatusIntent", "overground", ""));
        str ssml = unit_speech(response);
        char row[600];
        unit_print(row, sizeof row, "%ld: %.*s", (long)i, (int)ssml.len, ssml.ptr);
        unit_check_spoken(response, row);
        CHECK_ROW(unit_has_all(ssml, rows[i].has) && !unit_has_any(ssml, rows[i].has_not), row);
    }
    skill *s = unit_skill();
    script_start();
    unit_upstream(200, SIX(SEV(6, "Same."), SEV(6, "Same."), GOOD));
    str ssml = unit_speech(unit_handle(s, unit_intent("StatusIntent", "overground", "")));
    CHECK(unit_count(ssml, "<p>") == unit_count(ssml, "</p>") && unit_count(ssml, "<p>") > 1);
}

/* Where TfL refuses the six at once they are asked one by one. */
static void test_speech_overground_apart(void)
{
    static const char *names[] = {"Liberty",     "Lioness", "Mildmay",
                                  "Suffragette", "Weaver",  "Windrush"};
    skill *s = unit_skill();
    script_start();
    unit_upstream(404, "{}");
    for (iz i = 0; i < countof(names); i++) {
        char body[200];
        unit_print(body, sizeof body,
                   "[{\"id\":\"x\",\"name\":\"%s\",\"lineStatuses\":[{\"statusSeverity\":%d}]}]",
                   names[i], i == 3 ? 6 : 10);
        unit_upstream(200, body);
    }
    str ssml = unit_speech(unit_handle(s, unit_intent("StatusIntent", "overground", "")));
    CHECK(unit_has(ssml, "severe delays on the Suffragette line"));
    CHECK(unit_has(ssml, "good service on the other London Overground lines"));
    CHECK(unit_count(written(&script.sent), "GET ") == 7);
    CHECK(unit_has(written(&script.sent), "/Line/suffragette/Status"));
}

/* Each cut: no longer than asked, a beginning, whole characters, at a sentence if there is one. */
static void test_text_cut(void)
{
    static const char texts[][200] = {
        "One sentence. Two sentences! Three? The rest of it is longer. End.",
        "First on the D.L.R. line at 5. Second.",
        "Caf\xc3\xa9 \xe2\x82\xac 5. \xf0\x9f\x9a\x87 \xf0\x9f\x9a\x87. Caf\xc3\xa9\xe2\x82\xac.",
        "\xf0\x9f\x9a\x87\xf0\x9f\x9a\x87\xf0\x9f\x9a\x87\xf0\x9f\x9a\x87",
        "nosentencehereatall",
        "words but no end of a sentence",
        "",
        ". . .",
        " ",
    };
    for (iz i = 0; i < countof(texts); i++)
        for (iz max = 0; max <= 70; max++) {
            str s = unit_str(texts[i]), cut = text_cut(s, max);
            b32 sentence = 0;
            CHECK_ROW(cut.len <= max && str_starts(s, cut) && strict_text(cut), texts[i]);
            if (s.len <= max)
                CHECK_ROW(cut.len == s.len, texts[i]);
            for (iz k = 2; k <= max && k < s.len; k++) {
                u8 c = s.ptr[k - 1];
                sentence |= s.ptr[k] == ' ' && is_word(str_at(s, k - 2)) &&
                            is_word(str_at(s, k - 3)) && (c == '.' || c == '!' || c == '?');
            }
            if (sentence && s.len > max)
                CHECK_ROW(cut.len && is_one_of(cut.ptr[cut.len - 1], ".!?"), texts[i]);
        }
}

/* Texts that are as long and as hard to write as they come. */
static void test_speech_limits(void)
{
    static const char units[][16] = {
        "\\\"",    "\\\\",  "\\ud83d\\ude87", "<",    ">",      "& ",       "&",     "\\u00e9",
        "\\u20ac", "x",     "Word. ",         "n/b ", "DLR ",   "St ",      "a St ", "\\\". ",
        "< ",      "<&>. ", "\\u007f",        "' ",   "L St. ", "\\u0001x", "."};
    static char statuses[36000];
    for (iz i = 0; i < countof(units); i++)
        for (iz size = 100; size < 32000; size = size * 5 / 2) {
            iz n = sprintf(statuses, "{\"statusSeverity\":9,\"reason\":\"A delay. ");
            while (n < size)
                n += sprintf(statuses + n, "%s", units[i]);
            sprintf(statuses + n, "\"}");
            str response = unit_status("victoria", "Victoria", statuses);
            str ssml = unit_speech(response), text;
            text = strict_string_at(response, "response.card.text");
            CHECK_ROW(unit_has(ssml, "A delay.") && unit_has(text, "A delay."), units[i]);
            if (str_find(unit_str(units[i]), '.') > 0 && size > 20000)
                CHECK_ROW(str_ends(ssml, S(".</speak>")) && ssml.len > 1500, units[i]);
        }
}

/* The sizes at which a response is just within its bound, or just not. */
static void test_speech_at_the_bound(void)
{
    static char statuses[20000];
    iz longest = 0;
    for (int size = 4000; size < 7000; size += 37) {
        iz n = sprintf(statuses, "{\"statusSeverity\":9,\"reason\":\"");
        for (int i = 0; i < size; i++)
            n += sprintf(statuses + n, "\\\"");
        sprintf(statuses + n, "\"}");
        str response = unit_status("victoria", "Victoria", statuses);
        longest = longest < response.len ? response.len : longest;
    }
    CHECK(longest > 20000 && longest <= 24000);
}

/* Many long messages: in disruption and in a commute; each paragraph is whole. */
static void test_speech_limits_of_many(void)
{
    static const char units[][16] = {"Word. ", "\\\"", "\\ud83d\\ude87 ", "<", "& "};
    static const iz counts[] = {2, 20, 100, 200};
    static char body[40000];
    for (iz i = 0; i < countof(units); i++)
        for (iz c = 0; c < countof(counts); c++) {
            iz n = sprintf(body, "["), each = 36000 / counts[c];
            for (iz k = 0; k < counts[c]; k++) {
                iz from = n;
                n += sprintf(body + n, "%s{\"description\":\"M%03d. ", k ? "," : "", (int)k);
                while (n - from < each - 20)
                    n += sprintf(body + n, "%s", units[i]);
                n += sprintf(body + n, "\"}");
            }
            sprintf(body + n, "]");
            skill *s = unit_skill();
            script_start();
            unit_upstream(200, body);
            str response = unit_handle(s, unit_intent("DisruptionIntent", "", ""));
            unit_check_spoken(response, units[i]);
            CHECK_ROW(unit_has(unit_speech(response), "<p>M000."), units[i]);
        }
}

/* ---- intents ---- */

#define INTENT(name) "\"type\":\"IntentRequest\",\"intent\":{\"name\":\"" name "\"}"

/* Every request: what comes of it without upstream trouble. */
static const struct {
    char request[160], session[80], body[100];
    char open, card; /* y n, - without speech; S Standard, L LinkAccount, - none */
    int logs;
    char has[60];
} unit_intent_rows[] = {
    {"\"type\":\"LaunchRequest\"", "", "", 'y', '-', 0, "?"},
    {INTENT("StatusIntent"), "", "", 'y', '-', 0, "hich line"},
    {INTENT("DisruptionIntent"), "", "[]", 'n', 'S', 0, "no disruption"},
    {INTENT("DisruptionIntent"), "", "[{\"description\":\"A delay.\"}]", 'n', 'S', 0, "A delay."},
    {INTENT("CommuteIntent"), "", "", 'n', 'L', 0, "link"},
    {INTENT("CommuteIntent"), "\"user\":{\"accessToken\":\"\"}", "", 'n', 'L', 0, "link"},
    {INTENT("CommuteIntent"), "\"user\":{\"accessToken\":\"TOKEN MARK\"}", "", 'n', 'L', 1, "link"},
    {INTENT("CommuteIntent"), "\"user\":{\"accessToken\":\"a\\r\\nX: MARK\"}", "", 'n', 'L', 1,
     "link"},
    {INTENT("CommuteIntent"), "\"user\":{\"accessToken\":\"TOKENMARK\"}", "{\"favoriteLines\":[]}",
     'n', '-', 0, "favourite"},
    {INTENT("AMAZON.HelpIntent"), "", "", 'y', '-', 0, "?"},
    {INTENT("AMAZON.StopIntent"), "", "", 'n', '-', 0, ""},
    {INTENT("AMAZON.CancelIntent"), "", "", 'n', '-', 0, ""},
    {INTENT("AMAZON.NavigateHomeIntent"), "", "", 'n', '-', 0, ""},
    {INTENT("AMAZON.FallbackIntent"), "", "", 'y', '-', 0, "orry"},
    {INTENT("AMAZON.RepeatIntent"), "", "", 'y', '-', 0, "othing to repeat"},
    {INTENT("AMAZON.RepeatIntent"), "\"attributes\":{\"speech\":\"Which line?\"}", "", 'y', '-', 0,
     "Which line?"},
    {INTENT("AMAZON.RepeatIntent"), "\"attributes\":{\"speech\":7}", "", 'y', '-', 0,
     "othing to repeat"},
    {INTENT("AMAZON.RepeatIntent"), "\"attributes\":null", "", 'y', '-', 0, "othing to repeat"},
    {INTENT("AMAZON.YesIntent"), "", "", 'y', '-', 1, "orry"},
    {INTENT(""), "", "", 'y', '-', 1, "orry"},
    {INTENT("statusintent"), "", "", 'y', '-', 1, "orry"},
    {INTENT("AMAZON.HelpIntent2"), "", "", 'y', '-', 1, "orry"},
    {"\"type\":\"IntentRequest\"", "", "", 'y', '-', 1, "orry"},
    {"\"type\":\"IntentRequest\",\"intent\":null", "", "", 'y', '-', 1, "orry"},
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"USER_INITIATED\"", "", "", '-', '-', 0, ""},
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"EXCEEDED_MAX_REPROMPTS\"", "", "", '-', '-', 0,
     ""},
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"ERROR\",\"error\":{\"type\":"
     "\"INVALID_RESPONSE\","
     "\"message\":\"LOGMARK\"}",
     "", "", '-', '-', 1, ""},
    {"\"type\":\"SessionEndedRequest\"", "", "", '-', '-', 0, ""},
    {"\"type\":\"System.ExceptionEncountered\",\"error\":{\"type\":\"INTERNAL_ERROR\","
     "\"message\":"
     "\"LOGMARK\"},\"cause\":{\"requestId\":\"x\"}",
     "", "", '-', '-', 1, ""},
    {"\"type\":\"CanFulfillIntentRequest\",\"intent\":{\"name\":\"StatusIntent\"}", "", "", '-',
     '-', 1, ""},
    {"\"type\":\"Connections.Response\",\"status\":{\"code\":\"200\"}", "", "", '-', '-', 1, ""},
    {"\"type\":\"AlexaSkillEvent.SkillEnabled\"", "", "", '-', '-', 1, ""},
    {"\"type\":\"New.Type\\n\\\"\\u00e9\"", "", "", '-', '-', 1, ""},
};

static void test_intents_rules(void)
{
    for (iz i = 0; i < countof(unit_intent_rows); i++) {
        skill *s = unit_skill();
        script_start();
        if (unit_intent_rows[i].body[0])
            unit_upstream(200, unit_intent_rows[i].body);
        str response =
            unit_handle(s, unit_request(unit_intent_rows[i].request, unit_intent_rows[i].session));
        CHECK_ROW(script.logs == unit_intent_rows[i].logs &&
                      unit_count(written(&script.log), "\n") == script.logs,
                  unit_intent_rows[i].request);
        CHECK_ROW(!unit_has(written(&script.log), "MARK") && !unit_has(response, "MARK"),
                  unit_intent_rows[i].request);
        if (unit_intent_rows[i].open == '-') {
            CHECK_ROW(unit_is(strict_at(response, "response"), "{}"), unit_intent_rows[i].request);
            CHECK_ROW(!strict_at(response, "sessionAttributes").ptr, unit_intent_rows[i].request);
            continue;
        }
        unit_check_spoken(response, unit_intent_rows[i].request);
        CHECK_ROW(unit_has(unit_speech(response), unit_intent_rows[i].has),
                  unit_intent_rows[i].request);
        CHECK_ROW(unit_is(strict_at(response, "response.shouldEndSession"),
                          unit_intent_rows[i].open == 'y' ? "false" : "true"),
                  unit_intent_rows[i].request);
        str card = strict_string_at(response, "response.card.type");
        CHECK_ROW(unit_intent_rows[i].card == '-'
                      ? !card.ptr
                      : unit_is(card, unit_intent_rows[i].card == 'S' ? "Standard" : "LinkAccount"),
                  unit_intent_rows[i].request);
        b32 commute = strstr(unit_intent_rows[i].request, "CommuteIntent") != 0; /* TfL's, too */
        CHECK_ROW(script.connects == (unit_intent_rows[i].body[0] ? 1 + commute : 0),
                  unit_intent_rows[i].request);
    }
}

/* What was said in an open session comes back word for word, and again. */
static void test_intents_repeat(void)
{
    static const char requests[][80] = {"\"type\":\"LaunchRequest\"", INTENT("AMAZON.HelpIntent"),
                                        INTENT("StatusIntent"), INTENT("AMAZON.FallbackIntent")};
    for (iz i = 0; i < countof(requests); i++) {
        char session[2000];
        skill *s = unit_skill();
        script_start();
        str response = unit_handle(s, unit_request(requests[i], ""));
        str first = unit_speech(response), attributes;
        for (int again = 0; again < 2; again++) {
            attributes = strict_at(response, "sessionAttributes");
            CHECK_ROW(attributes.len > 10, requests[i]);
            unit_print(session, sizeof session, "\"attributes\":%.*s", (int)attributes.len,
                       attributes.ptr);
            response = unit_handle(s, unit_request(INTENT("AMAZON.RepeatIntent"), session));
            unit_check_spoken(response, requests[i]);
            CHECK_ROW(str_eq(unit_speech(response), first), requests[i]);
        }
    }
    skill *s = unit_skill(); /* made elsewhere, and hostile */
    script_start();
    str response =
        unit_handle(s, unit_request(INTENT("AMAZON.RepeatIntent"),
                                    "\"attributes\":{\"speech\":\"<break time='9s'/> & ?\"}"));
    CHECK(unit_ssml_good(unit_speech(response)) && unit_has(unit_speech(response), "&lt;break"));
}

static void test_disruption_speech(void)
{
    skill *s = unit_skill();
    script_start();
    unit_upstream(200,
                  "[{\"description\":\"Circle Line: No service & no hope at High St Kensington\"},"
                  "{\"description\":\"bakerloo Line: Minor delays\"},"
                  "{\"description\":\"BAKERLOO  Line: minor delays\"}]");
    str response = unit_handle(s, unit_intent("DisruptionIntent", "", "")), ssml, text;
    unit_check_spoken(response, "disruption");
    ssml = unit_speech(response);
    text = strict_string_at(response, "response.card.text");
    CHECK(unit_has_all(ssml, "<p>bakerloo Line: Minor delays.</p><p>Circle Line: No service and no "
                             "hope at High Street Kensington.</p><p>No other"));
    CHECK(unit_has_all(text,
                       "bakerloo Line: Minor delays|Circle Line: No service & no hope at High "
                       "St Kensington"));
    CHECK(unit_count(ssml, "<p>") == 3 && unit_count_nocase(ssml, S("bakerloo")) == 1);
}

static const char unit_commute_session[] = "\"user\":{\"accessToken\":\"TOKENMARK-._~+/=\"}";

/* Favourites, what TfL is asked and answers in turn, and what is said. */
static void test_commute(void)
{
#define WELL(name) LINE(name, GOOD)
    static const struct {
        char favourites[120];
        int statuses[6];
        char bodies[6][600], asked[200], has[160];
    } rows[] = {
        {"\"victoria\"",
         {200},
         {"[" WELL("Victoria") "]"},
         "/Line/victoria/Status",
         "good service|Victoria line"},
        {"\"victoria\",\"bakerloo\",\"victoria\"",
         {200},
         {"[" LINE("Victoria", SEV(9, "V.")) "," LINE("Bakerloo", SEV(9, "B.")) "]"},
         "/Line/victoria%2Cbakerloo/Status",
         "<p>|B.|</p><p>|V.|</p>"},
        {"\"z\",\"y\"",
         {200},
         {"[" WELL("district") "," WELL("Circle") "," WELL("Bakerloo") "]"},
         "/Line/z%2Cy/Status",
         "Bakerloo|Circle|district"},
        {"\"z\",\"y\",\"x\"",
         {200},
         {"[" WELL("Circle") "," WELL("victoria") "," WELL("Bakerloo") "," WELL("Central") "]"},
         "/Line/z%2Cy%2Cx/Status",
         "Bakerloo|Central|Circle|victoria"},
        {"\"tfl-rail\"",
         {200},
         {"[" WELL("Elizabeth line") "]"},
         "/Line/elizabeth/Status",
         "good service|Elizabeth line"},
        {"\"Bad Id\",\"dlr\",\"../x\"", {200}, {"[" WELL("DLR") "]"}, "/Line/dlr/Status", "D.L.R."},
        {"\"victoria\",\"gone\",\"dlr\"",
         {404, 200, 404, 200},
         {"{}", "[" WELL("Victoria") "]", "{}", "[" WELL("DLR") "]"},
         "/Line/victoria%2Cgone%2Cdlr/Status|/Line/victoria/Status|/Line/gone/Status|/Line/dlr/",
         "D.L.R.|Victoria line|know"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        char text[300];
        skill *s = unit_skill();
        script_start();
        unit_print(text, sizeof text, "{\"favoriteLines\":[%s],\"userId\":\"USERMARK\"}",
                   rows[i].favourites);
        unit_upstream(200, text);
        script_add(S(""), THEN_SILENCE);
        iz count = 0;
        for (; count < 6 && rows[i].statuses[count]; count++)
            unit_upstream(rows[i].statuses[count], rows[i].bodies[count]);
        str response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
        unit_check_spoken(response, rows[i].favourites);
        CHECK_ROW(unit_has_all(written(&script.sent), rows[i].asked), rows[i].favourites);
        CHECK_ROW(unit_count(written(&script.sent), "GET /tfl/Line/") == count, rows[i].favourites);
        CHECK_ROW(unit_has_all(unit_speech(response), rows[i].has), rows[i].favourites);
        CHECK_ROW(unit_is(strict_string_at(response, "response.card.type"), "Standard"),
                  rows[i].favourites);
        CHECK_ROW(unit_count(written(&script.sent), "Authorization: ") == 1, rows[i].favourites);
    }
}

/* At most twenty ids in one call, and every one of them asked for. */
static void test_commute_of_many(void)
{
    for (int count = 19; count <= 45; count += 13) {
        static char text[2000];
        skill *s = unit_skill();
        iz n = sprintf(text, "{\"favoriteLines\":[");
        for (int i = 0; i < count; i++)
            n += sprintf(text + n, "%s\"line-%d-x\"", i ? "," : "", i);
        sprintf(text + n, "]}");
        script_start();
        unit_upstream(200, text);
        script_add(S(""), THEN_SILENCE);
        for (int i = 0; i < count; i += 20)
            unit_upstream(200, "[" WELL("Victoria") "]");
        unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
        CHECK(unit_count(written(&script.sent), "GET /tfl/Line/") == (count + 19) / 20);
        CHECK(unit_count(written(&script.sent), "%2C") == count - (count + 19) / 20);
        for (int i = 0; i < count; i++) {
            unit_print(text, sizeof text, "line-%d-x", i);
            CHECK_ROW(unit_count(written(&script.sent), text) == 1, text);
        }
    }
}

/* A list of more than twenty of which only the second part is refused. */
static void test_commute_of_many_refused(void)
{
    static char text[2000];
    skill *s = unit_skill();
    iz n = sprintf(text, "{\"favoriteLines\":[");
    for (int i = 0; i < 22; i++)
        n += sprintf(text + n, "%s\"line-%d-x\"", i ? "," : "", i);
    sprintf(text + n, "]}");
    script_start();
    unit_upstream(200, text);
    script_add(S(""), THEN_SILENCE);
    unit_upstream(200, "[" WELL("Victoria") "]");
    unit_upstream(404, "{}");
    unit_upstream(404, "{}");
    unit_upstream(200, "[" WELL("Circle") "]");
    str response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
    unit_check_spoken(response, "many refused");
    CHECK(unit_has_all(unit_speech(response), "Circle line|Victoria line"));
    CHECK(unit_count(written(&script.sent), "GET /tfl/Line/") == 4);
    CHECK(unit_has_all(written(&script.sent), "line-20-x%2Cline-21-x/|/line-20-x/|/line-21-x/"));
}

/* A service that fails: the user hears an apology in time, the log one line or more, and the next
 * request works. */
static void test_services_fail(void)
{
    static const struct {
        char name[24];
        int status;
        char body[60];
        script_then then;
        err connect;
    } ways[] = {
        {"refused", 0, "", THEN_MORE, E_ConnectRefused},
        {"unreachable", 0, "", THEN_MORE, E_Unreachable},
        {"connect hangs", 0, "", THEN_MORE, E_TimedOut},
        {"reset", 0, "", THEN_RESET, E_None},
        {"closed", 0, "", THEN_END, E_None},
        {"silent", 0, "", THEN_SILENCE, E_None},
        {"500", 500, "UPSTREAMMARK", THEN_END, E_None},
        {"503", 503, "UPSTREAMMARK", THEN_MORE, E_None},
        {"429", 429, "UPSTREAMMARK", THEN_END, E_None},
        {"400", 400, "{\"relativeUri\":\"app_key=UPSTREAMMARK\"}", THEN_MORE, E_None},
        {"404", 404, "UPSTREAMMARK", THEN_MORE, E_None},
        {"302", 302, "UPSTREAMMARK", THEN_MORE, E_None},
        {"html", 200, "<html>UPSTREAMMARK</html>", THEN_MORE, E_None},
        {"empty", 200, "", THEN_MORE, E_None},
        {"null", 200, "null", THEN_MORE, E_None},
        {"truncated json", 200, "[{\"description\":\"UPSTREAMMARK", THEN_MORE, E_None},
        {"garbage", 200, "\xff\xfe\x80[[[", THEN_MORE, E_None},
        {"too deep", -1001, "", THEN_MORE, E_None},
        {"too large", -300000, "", THEN_MORE, E_None},
        {"half", -1, "", THEN_MORE, E_None},
    };
    static char deep[1100];
    memset(deep, (int)(u8)91, 1001);
    for (iz i = 0; i < countof(ways); i++)
        for (int what = 0; what < 3; what++) { /* status, disruption, preferences */
            static const char intents[][20] = {"StatusIntent", "DisruptionIntent", "CommuteIntent"};
            skill *s = unit_skill();
            script_start();
            for (int k = 0; k < 3; k++)
                script.connect[k] = ways[i].connect;
            for (int k = 0; k < 3 && ways[i].status > 0; k++) {
                unit_upstream(ways[i].status, ways[i].body);
                if (ways[i].then != THEN_MORE)
                    script_add(S(""), ways[i].then);
            }
            if (ways[i].status == -1)
                script_add(S(OK "Content-Length: 100\r\n\r\n[{\"description\""), THEN_END);
            else if (ways[i].status == -1001)
                unit_upstream(200, deep);
            else if (ways[i].status < 0)
                script_add(S(OK "Content-Length: 200000\r\n\r\n["), THEN_MORE);
            else if (!ways[i].status && !ways[i].connect)
                script_add(S(""), ways[i].then);
            str response =
                unit_handle(s, unit_intent(intents[what], "victoria", unit_commute_session));
            unit_check_spoken(response, ways[i].name);
            CHECK_ROW(unit_has(unit_speech(response), "orry"), ways[i].name);
            CHECK_ROW(unit_is(strict_at(response, "response.shouldEndSession"), "true"),
                      ways[i].name);
            CHECK_ROW(what < 2 || unit_has_any(unit_speech(response), "preferences|too long"),
                      ways[i].name);
            CHECK_ROW(script.logs > 0 && !unit_has(written(&script.log), "app_"), ways[i].name);
            CHECK_ROW(!unit_has(written(&script.log), "GET") &&
                          !unit_has(written(&script.log), "k/e"),
                      ways[i].name);
            while (script.claimed < script.pieces) /* what is left of the failure */
                script.claimed++;
            connection_close(&s->tfl.connection);
            unit_upstream(200, "[" WELL("Victoria") "]");
            memset(script.connect, 0, sizeof script.connect);
            response = unit_handle(s, unit_intent("StatusIntent", "victoria", ""));
            CHECK_ROW(unit_has(unit_speech(response), "good service"), ways[i].name);
        }
}

/* The preferences service refuses the token: the card asks to link the account. */
static void test_commute_refused(void)
{
    for (int status = 401; status <= 403; status += 2) {
        skill *s = unit_skill();
        script_start();
        unit_upstream(status, "UPSTREAMMARK");
        str response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
        unit_check_spoken(response, "refused");
        CHECK(unit_is(strict_at(response, "response.card"), "{\"type\":\"LinkAccount\"}"));
        CHECK(unit_has(unit_speech(response), "link") && script.logs == 1);
    }
    skill *s = unit_skill(); /* favourites, but TfL fails */
    script_start();
    unit_upstream(200, "{\"favoriteLines\":[\"victoria\"]}");
    script_add(S(""), THEN_SILENCE);
    script_add(S(""), THEN_RESET);
    str response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
    unit_check_spoken(response, "TfL fails");
    CHECK(unit_has(unit_speech(response), "TfL") || unit_has(unit_speech(response), "T.F.L."));
    s = unit_skill(); /* the list is refused, one line is told, then TfL is silent */
    script_start();
    unit_upstream(200, "{\"favoriteLines\":[\"victoria\",\"circle\",\"gone\"]}");
    script_add(S(""), THEN_SILENCE);
    unit_upstream(404, "{}");
    unit_upstream(200, "[" WELL("Victoria") "]");
    script_add(S(""), THEN_SILENCE);
    script_add(S(""), THEN_SILENCE);
    response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
    unit_check_spoken(response, "silent after one line");
    CHECK(unit_count(written(&script.sent), "GET /tfl/Line/circle/Status") > 0);
    s = unit_skill(); /* none of the lines is known to TfL */
    script_start();
    unit_upstream(200, "{\"favoriteLines\":[\"gone\"]}");
    script_add(S(""), THEN_SILENCE);
    unit_upstream(404, "{}");
    response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
    unit_check_spoken(response, "no line known");
    CHECK(unit_has(unit_speech(response), "doesn't know"));
    s = unit_skill(); /* not set up */
    s->preferences.error = E_PreferencesNotSet;
    script_start();
    response = unit_handle(s, unit_intent("CommuteIntent", "", unit_commute_session));
    unit_check_spoken(response, "not set up");
    CHECK(unit_has(unit_speech(response), "set up") && !script.connects);
}

/* ---- section 16: the loop ---- */

enum { UNIT_PROCESS = PROCESS_BYTES };

static u8 unit_process[UNIT_PROCESS] __attribute__((aligned(16)));

/* Runs the program on the script until Lambda's side ends it. */
static i32 unit_run(void)
{
    static const char *env[] = {
        "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "Skill__TflApiUrl=http://127.0.0.1:8081/",
        "Skill__SkillApiUrl=http://127.0.0.1:8082/", "Skill__SkillId=APPMARK", 0};
    os_unguard(unit_process, UNIT_PROCESS);
    memset(unit_process, 0, UNIT_PROCESS);
    arena process = arena_of(unit_process, UNIT_PROCESS);
    return skill_run(&process, unit_arena(), env);
}

/* An answer to `next` with that event; request ids count up from 1 with each script. */
static void unit_next(str event, const char *more)
{
    static char heads[64][300];
    static int turn;
    char *head = heads[turn++ % 64];
    int n = unit_print(head, sizeof heads[0],
                       OK "Lambda-Runtime-Aws-Request-Id: req-%ld\r\n%sContent-Length: %ld\r\n\r\n",
                       (long)script.pieces, more, (long)event.len);
    script_add((str){(u8 *)head, n}, THEN_MORE);
    script_add(event, THEN_MORE);
}

static str unit_copy(str s)
{
    static u8 copies[16][2000];
    static int turn;
    u8 *to = copies[turn++ % 16];
    copy(to, s.ptr, s.len);
    return (str){to, s.len};
}

/* Ends the loop: Lambda says 500. */
static void unit_last(void)
{
    script_add(S("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"), THEN_SILENCE);
}

static void test_loop_conversation(void)
{
    script_start();
    unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_next(unit_copy(unit_intent("AMAZON.HelpIntent", "", "")),
              "Lambda-Runtime-Invocation-Id: i2\r\n");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_next(unit_copy(S("{\"request\":{\"type\":\"LaunchRequest\"},\"session\":{\"application\":{"
                          "\"applicationId\":\"other\"}}}")),
              "Lambda-Runtime-Invocation-Id: i3\r\n");
    script_add(S("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), THEN_MORE);
    unit_next(unit_copy(unit_intent("AMAZON.StopIntent", "", "")), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_last();
    CHECK(unit_run() == 1 && script.connects == 1 && !script.faults);
    str sent = written(&script.sent);
    CHECK(unit_has_all(sent,
                       "/next |req-0/response|Welcome|/next |req-3/response|Invocation-Id: i2|"
                       "/next |req-6/error|Invocation-Id: i3|Function.SkillIdMismatch|/next |"
                       "req-9/response|Goodbye|/next "));
    CHECK(unit_count(sent, "/next ") == 5 && unit_count(sent, "POST ") == 4);
    CHECK(unit_count(sent, "Invocation-Id") == 2);
    str log = written(&script.log);
    CHECK(unit_has_all(log, "\treq-6\t|SkillIdMismatch|\treq-6\t") && unit_has(log, "FATAL"));
    CHECK(unit_count(log, "\n") == script.logs);
}

/* The hostile events of the issue: each is one named error, and the next event is answered. */
static void test_loop_hostile_events(void)
{
    static u8 deep[200000], large[5000000], escapes[6200000];
    memset(deep, '[', sizeof deep);
    memset(large, 'x', sizeof large);
    memcpy(large, "{\"x\":\"", 6);
    memset(escapes, 0, sizeof escapes);
    iz n = sprintf((char *)escapes,
                   "{\"request\":{\"type\":\"IntentRequest\",\"intent\":{\"name\":\"");
    for (; n < 6000000; n += 2)
        memcpy(escapes + n, "\\n", 2);
    n += sprintf((char *)escapes + n, "\"}}}");
    struct {
        str event;
        const char *error;
    } rows[] = {
        {S(""), "Function.JsonEmpty"},
        {S("hello"), "Function.JsonSyntax"},
        {(str){deep, countof(deep)}, "Function.JsonTooDeep"},
        {S("{\"request\":{\"type\":\"\xc0\xaf\"}}"), "Function.JsonUtf"},
        {(str){large, countof(large)}, "Function.JsonTruncated"},
        {S("{\"version\":\"1.0\"}"), "Function.NotAnAlexaRequest"},
        {(str){escapes, n}, "Function.OutOfMemory"},
        {S("{\"request\":{\"type\":\"LaunchRequest\"}}"), "Function.SkillIdMismatch"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        script_start();
        unit_next(rows[i].event, "");
        script_add(S(ACCEPTED), THEN_MORE);
        unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
        script_add(S(ACCEPTED), THEN_MORE);
        unit_last();
        unit_run();
        str sent = written(&script.sent);
        CHECK_ROW(unit_count(sent, "POST ") == 2, rows[i].error);
        CHECK_ROW(unit_has_all(sent, "req-0/error|Function-Error-Type: |req-3/response|Welcome"),
                  rows[i].error);
        CHECK_ROW(unit_count(sent, rows[i].error) == 2, rows[i].error);
    }
    large[sizeof large - 2] = '"'; /* and the same string whole, which is skipped */
    large[sizeof large - 1] = '}';
    script_start();
    unit_next((str){large, countof(large)}, "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_last();
    unit_run();
    CHECK(unit_has(written(&script.sent), "Function.NotAnAlexaRequest"));
}

/* Long texts where they are wanted fill the arena; the answer or an error comes all the same. */
static void test_loop_survives_exhaustion(void)
{
    static u8 event[6292000];
#define MINE "{\"session\":{\"application\":{\"applicationId\":\"APPMARK\""
#define ASK(name) "\"}},\"request\":{" INTENT(name) "}}"
    static const char starts[][120] = {
        MINE "},\"attributes\":{\"speech\":\"",
        MINE "},\"user\":{\"accessToken\":\"",
        MINE ",\"x\":\"",
    };
    static const char ends[][120] = {ASK("AMAZON.RepeatIntent"), ASK("CommuteIntent"),
                                     ASK("DisruptionIntent")};
    static const struct {
        int text, escaped;
        iz size;
    } rows[] = {{0, 1, 4190000}, {0, 1, 6290000}, {1, 1, 6290000}, {2, 0, 6290000}};
    for (iz i = 0; i < countof(rows); i++) {
        iz n = sprintf((char *)event, "%s", starts[rows[i].text]);
        for (; n < rows[i].size; n += 2)
            memcpy(event + n, rows[i].escaped ? "\\t" : "y ", 2);
        n += sprintf((char *)event + n, "%s", ends[rows[i].text]);
        script_start();
        for (int c = 1; c < 12; c++)
            script.connect[c] = E_ConnectRefused;
        unit_next((str){event, n}, "");
        script_add(S(ACCEPTED), THEN_MORE);
        unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
        script_add(S(ACCEPTED), THEN_MORE);
        unit_last();
        unit_run();
        CHECK_ROW(unit_has_all(written(&script.sent), "POST |req-0/|/next |req-3/response|Welcome"),
                  starts[rows[i].text]);
    }
}

/* Whatever room there is, an event ends in a response or in an error, never in a trap. */
static void test_loop_any_room(void)
{
    const char *intents[] = {"StatusIntent", "CommuteIntent", "DisruptionIntent",
                             "AMAZON.HelpIntent"};
    iz answered = 0, refused = 0;
    for (iz k = 0; k < countof(intents); k++)
        for (iz room = 0; room < 100000; room += room < 8000 ? 16 : 1008) {
            skill *s = unit_skill();
            arena *a = unit_small_arena(room);
            str response = {0, 0};
            script_start();
            if (!strcmp(intents[k], "CommuteIntent")) {
                unit_upstream(200, "{\"favoriteLines\":[\"victoria\",\"dlr\"]}");
                script_add(S(""), THEN_SILENCE);
            }
            unit_upstream(200, strcmp(intents[k], "DisruptionIntent")
                                   ? "[" WELL("Victoria") "," WELL("DLR") "]"
                                   : "[{\"description\":\"One.\"},{\"description\":\"Two\"}]");
            invocation i = {.request_id = S("req-1"), .deadline = script.now + 7 * SECOND};
            i.event = unit_intent(intents[k], "overground", unit_commute_session);
            err error = skill_handle(s, &i, a, &response);
            answered += !error && strict_json(response);
            refused += error == E_OutOfMemory;
            CHECK_ROW(error ? error == E_OutOfMemory : strict_json(response), unit_error(error));
        }
    CHECK(answered > 100 && refused > 100);
}

static iz unit_search(const u8 *from, iz n, const char *text)
{
    iz size = (iz)strlen(text), count = 0;
    for (iz i = 0; i + size <= n; i++)
        count += from[i] == (u8)text[0] && !memcmp(from + i, text, (size_t)size);
    return count;
}

/* After the reset no byte of memory holds the token, the user's id or what was asked. */
static void test_loop_wipes(void)
{
    static const char session[] =
        "\"application\":{\"applicationId\":\"APPMARK\"},\"user\":{\"userId\":"
        "\"USERMARK\",\"accessToken\":\"TOK\\u0045NMARK.1234567\"}";
    u8 *memory = unit_arena()->start;
    script_start();
    unit_next(unit_copy(unit_intent("CommuteIntent", "SAIDMARK", session)), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_last();
    unit_upstream(200, "{\"favoriteLines\":[\"victoria\"],\"userId\":\"USERMARK\"}");
    script_add(S(""), THEN_SILENCE);
    unit_upstream(200, "[" WELL("Victoria") "]");
    unit_run();
    CHECK(unit_has(written(&script.sent), "Bearer TOKENMARK.1234567\r\n"));
    CHECK(unit_has(written(&script.sent), "req-0/response") &&
          unit_has(written(&script.sent), "good service"));
    static const char marks[][12] = {"TOKENMARK", "TOK\\u0045N", "1234567",
                                     "SAIDMARK",  "SESSIONMARK", "USERMARK"};
    os_unguard(memory, INVOCATION_BYTES);
    os_unguard(unit_process, UNIT_PROCESS);
    for (iz i = 0; i < countof(marks); i++) {
        CHECK_ROW(!unit_search(memory, INVOCATION_BYTES, marks[i]), marks[i]);
        CHECK_ROW(!unit_search(unit_process, UNIT_PROCESS, marks[i]), marks[i]);
    }
    iz dirt = 0;
    unit_arena();
    for (iz i = 0; i < INVOCATION_BYTES; i++)
        dirt += memory[i] != 0;
    CHECK(!dirt);
}

static void test_loop_reconnects(void)
{
    static const char statuses[][4] = {"403", "500"};
    for (iz i = 0; i < countof(statuses); i++) {
        char text[80];
        script_start();
        unit_print(text, sizeof text, "HTTP/1.1 %s x\r\nContent-Length: 2\r\n\r\n{}", statuses[i]);
        script_add(unit_str(text), THEN_MORE);
        CHECK(unit_run() != 0 && script.connects == 1 &&
              unit_count(written(&script.sent), "GET ") == 1);
        CHECK(unit_has(written(&script.log), "FATAL"));
    }
    script_start(); /* next breaks twice, then there is an event */
    script_add(S(""), THEN_END);
    script_add(S(""), THEN_RESET);
    unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_last();
    CHECK(unit_run() == 1 && script.connects == 3 && unit_has(written(&script.sent), "Welcome"));
    script_start(); /* failures count in a row only */
    for (int round = 0; round < 3; round++) {
        script_add(S(""), THEN_END);
        script_add(S(""), THEN_RESET);
        unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
        script_add(S(ACCEPTED), THEN_END);
    }
    CHECK(unit_run() == 1 && unit_count(written(&script.sent), "Welcome") == 3 * 2);
    script_start(); /* it never comes back */
    for (int k = 0; k < 12; k++)
        script_add(S(""), THEN_END);
    CHECK(unit_run() == 1 && script.connects > 1 && script.connects < 12);
    script_start(); /* not even once */
    for (int k = 0; k < SCRIPT_ERRORS; k++)
        script.connect[k] = E_ConnectRefused;
    CHECK(unit_run() == 1 && script.connects > 1 && script.connects <= SCRIPT_ERRORS);
    CHECK(script.now < 5060 * SECOND);
    script_start(); /* ten hours in `next` */
    unit_next(unit_copy(unit_request("\"type\":\"LaunchRequest\"", "")), "");
    script.piece[0].delay = 36000 * SECOND;
    script_add(S(ACCEPTED), THEN_MORE);
    script.piece[2].delay = 60 * SECOND;
    unit_last();
    CHECK(unit_run() == 1 && script.connects == 1 && unit_has(written(&script.sent), "Welcome"));
}

/* Started by hand. */
static void test_loop_without_lambda(void)
{
    static u8 memory[UNIT_PROCESS] __attribute__((aligned(16)));
    static const char *env[] = {"PATH=/bin", 0}, *bad[] = {"AWS_LAMBDA_RUNTIME_API=a b", 0};
    for (int i = 0; i < 2; i++) {
        os_unguard(memory, UNIT_PROCESS);
        memset(memory, 0, sizeof memory);
        arena process = arena_of(memory, UNIT_PROCESS);
        script_start();
        CHECK(skill_run(&process, unit_arena(), i ? bad : env) == 1 && !script.connects);
        CHECK(unit_has(written(&script.log), "AWS_LAMBDA_RUNTIME_API") &&
              str_ends(written(&script.log), S("\n")));
        CHECK(i || unit_has(written(&script.log), "make run"));
    }
}

/* ---- what comes before the loop ---- */

/* With this AWS_LAMBDA_MAX_CONCURRENCY; NULL: without. */
static i32 unit_start(const char *concurrency)
{
    char text[100];
    const char *env[] = {"PATH=/bin", concurrency ? text : 0, 0};
    unit_print(text, sizeof text, "AWS_LAMBDA_MAX_CONCURRENCY=%s", concurrency ? concurrency : "");
    return skill_start(unit_arena(), env);
}

/* As many workers as it says, within bounds. The last of them is where we are. */
static void test_workers_count(void)
{
    static const struct {
        const char *text;
        i32 count;
        b32 told;
    } rows[] = {
        {0, 1, 0},       {"", 1, 0},
        {"1", 1, 0},     {"2", 2, 0},
        {"08", 8, 0},    {"256", 256, 0},
        {"257", 256, 0}, {"4611686018427387904", 256, 0},
        {"0", 1, 1},     {"00", 1, 1},
        {"-1", 1, 1},    {"+2", 1, 1},
        {" 2", 1, 1},    {"2 ", 1, 1},
        {"2x", 1, 1},    {"1e3", 1, 1},
        {"two", 1, 1},   {"18446744073709551618", 1, 1}, /* 2 beyond 64 bits */
    };
    for (iz i = 0; i < countof(rows); i++) {
        const char *row = rows[i].text ? rows[i].text : "none";
        script_start();
        script.copy_is = rows[i].count;
        b32 alone = !rows[i].text || !*rows[i].text;
        CHECK_ROW(unit_start(rows[i].text) == (alone ? START_ALONE : START_COPY), row);
        CHECK_ROW(script.copies == (rows[i].count > 1 ? rows[i].count : 0), row);
        CHECK_ROW(unit_has(written(&script.log), "WorkerCount") == rows[i].told, row);
        CHECK_ROW(!script.ends && !script.connects, row);
    }
}

/* Ends: each after that life, and of that worker. Five short lives in a row end all, with pauses of
 * 0.1 to 0.4 s between them; a long one begins anew. */
static void test_workers_end(void)
{
    static const i32 in_turn[] = {101, 103, 104, 105, 106, 107, 108, 109, 110, 111};
    i64 started;
    script_start();
    started = script.now;
    for (iz i = 0; i < countof(in_turn); i++)
        script.ended[i] = in_turn[i], script.life[i] = SECOND;
    script.status = 9;
    CHECK(unit_start("2") == 1 && script.copies == 2 + 4 && script.ends == 5);
    CHECK(script.now - started == 5 * SECOND + (1 + 2 + 3 + 4) * 100 * MS);
    CHECK(unit_count(written(&script.log), "WorkerEnded") == 5);
    CHECK(unit_count(written(&script.log), "exit=0,signal=9") == 5);
    CHECK(unit_count(written(&script.log), "WorkersFail") == 1);
    script.life[3] = WORKER_LIFE; /* the fourth lives long enough, and is followed at once */
    script.ends = script.copies = 0;
    script.now = started;
    CHECK(unit_start("2") == 1 && script.copies == 2 + 8 && script.ends == 9);
    CHECK(script.now - started == 8 * SECOND + WORKER_LIFE + (6 + 10) * 100 * MS);
    script_start(); /* all are killed at once, after an hour: all are back at once */
    started = script.now;
    for (i32 i = 0; i < 8; i++)
        script.ended[i] = 101 + i;
    script.life[0] = 3600 * SECOND;
    script.copy_is = 16;
    script.status = 1 << 8;
    CHECK(unit_start("8") == START_COPY && script.now - started == 3600 * SECOND);
    CHECK(unit_count(written(&script.log), "exit=1,signal=0") == 8);
    CHECK(!unit_has(written(&script.log), "WorkersFail"));
    script_start(); /* somebody else's child is no worker */
    script.ended[0] = 7, script.ended[1] = 104, script.ended[2] = 101, script.copy_is = 3;
    CHECK(unit_start("2") == START_COPY && script.ends == 3 && script.copies == 3);
    for (iz none = 1; none < 4; none++) { /* no process for the first, the second, another */
        script_start();
        script.ended[0] = 102;
        script.copy_none = none;
        CHECK(unit_start("2") == 1 && script.copies == none);
        CHECK(unit_count(written(&script.log), "WorkerStart") == 1);
    }
    script_start(); /* no child to wait for, which cannot be */
    CHECK(unit_start("2") == 1 && script.ends == 1 && script.copies == 2);
}

/* Where a needle ends in what was sent; null where it is not. */
static const u8 *unit_behind(str all, str needle)
{
    for (iz i = 0; i + needle.len <= all.len; i++)
        if (!memcmp(all.ptr + i, needle.ptr, (size_t)needle.len))
            return all.ptr + i + needle.len;
    return 0;
}

/* What one copy of this process puts on the wire for two events: two queries of DNS for the
 * preferences, then a ClientHello to TfL. */
static iz unit_copy_sends(u8 *out, iz cap)
{
    static const char *env[] = {
        "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "SSL_CERT_FILE=" SCRIPT_ROOTS,
        "Skill__TflApiUrl=https://127.0.0.1:8443/", "Skill__SkillApiUrl=https://name.test/", 0};
    int fds[2], status;
    iz n = 0;
    CHECK(!pipe(fds));
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        arena process = arena_of(unit_process, UNIT_PROCESS);
        skill_run(&process, unit_arena(), env);
        str sent = written(&script.sent);
        _exit(write(fds[1], sent.ptr, (size_t)sent.len) != sent.len);
    }
    close(fds[1]);
    for (iz got; (got = read(fds[0], out + n, (size_t)(cap - n))) > 0;)
        n += got;
    close(fds[0]);
    CHECK(waitpid(pid, &status, 0) == pid && !status);
    return n;
}

/* Two processes that were restored from one snapshot: whatever is to be random differs. */
static void test_restored_copies_differ(void)
{
    static const char *env[] = {"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
                                "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", 0};
    static u8 sent[2][1 << 16];
    const u8 *hello[2], *query[2];
    os_unguard(unit_process, UNIT_PROCESS);
    memset(unit_process, 0, UNIT_PROCESS);
    script_start();
    script.roots = S("no certificate is asked for before the server's answer");
    script_add(S(OK "Content-Length: 0\r\n\r\n"), THEN_END);
    CHECK(skill_start(unit_arena(), env) == START_COPY);
    unit_next(unit_copy(unit_intent("CommuteIntent", "", unit_commute_session)), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_next(unit_copy(unit_intent("StatusIntent", "victoria", "")), "");
    script_add(S(ACCEPTED), THEN_MORE);
    unit_last(); /* connections beside that to the Runtime API are silent */
    for (int i = 0; i < 2; i++) {
        str all = {sent[i], unit_copy_sends(sent[i], countof(sent[i]))};
        CHECK(unit_count(all, "/response ") == 2);
        hello[i] = unit_behind(all, S(""));
        query[i] = unit_behind(all, S("nametest"));
        CHECK(hello[i] && query[i]);
        if (!hello[i] || !query[i])
            return;
    }
    CHECK(!memcmp(hello[0] + 6, "", 2) && !memcmp(hello[1] + 6, "", 2));
    CHECK(memcmp(hello[0] + 8, hello[1] + 8, 32)); /* the random of each ClientHello */
    const u8 *more[2];
    for (int i = 0; i < 2; i++) /* the second query, for AAAA */
        more[i] = unit_behind((str){query[i], 200}, S("nametest"));
    CHECK(more[0] && more[1] && !memcmp(query[0] - 20, query[1] - 20, 25));
    CHECK(memcmp(query[0] - 22, query[1] - 22, 2) || memcmp(more[0] - 22, more[1] - 22, 2));
}

/* ---- fuzzing ---- */

static void unit_fuzz_response(str response, b32 spoken)
{
    str ssml = unit_speech(response);
    if (!strict_json(response) || response.len >= 24 * 1024 || script.faults)
        abort();
    if ((spoken || ssml.ptr) && !unit_ssml_good(ssml))
        abort();
}

/* An event, with every connection refused. */
static void fuzz_event(const u8 *data, iz n)
{
    skill *s = unit_skill();
    invocation i = {.request_id = S("req-1"), .event = {data, n}};
    str response;
    script_start();
    for (int k = 0; k < SCRIPT_ERRORS; k++)
        script.connect[k] = E_ConnectRefused;
    i.deadline = script.now + 7 * SECOND;
    err error = skill_handle(s, &i, unit_arena(), &response);
    if (!error)
        unit_fuzz_response(response, 0);
    if (error && strict_json((str){data, n}) && error != E_NotAnAlexaRequest)
        abort();
    script.on = 0;
}

/* What TfL says of a line, of disruption and of favourites. */
static void fuzz_tfl(const u8 *data, iz n)
{
    static const char intents[][20] = {"StatusIntent", "DisruptionIntent", "CommuteIntent"};
    for (iz k = 0; k < countof(intents); k++) {
        skill *s = unit_skill();
        invocation i = {.request_id = S("req-1")};
        str response = {0, 0};
        char head[80];
        script_start();
        if (k == 2) {
            script_add(S(OK "Content-Length: 34\r\n\r\n{\"favoriteLines\":[\"dlr\",\"circle\"]}"),
                       THEN_MORE);
            script_add(S(""), THEN_SILENCE);
        }
        unit_print(head, sizeof head, OK "Content-Length: %ld\r\n\r\n", (long)n);
        script_add(unit_str(head), THEN_MORE);
        script_add((str){data, n}, THEN_SILENCE);
        i.event = unit_intent(intents[k], "dlr", unit_commute_session);
        i.deadline = script.now + 7 * SECOND;
        if (skill_handle(s, &i, unit_arena(), &response))
            abort();
        unit_fuzz_response(response, 1);
    }
    script.on = 0;
}

/* What libFuzzer's first byte chooses from. */
static void (*const fuzz_entry[])(const u8 *, iz) = {
    fuzz_json,  fuzz_tfl,    fuzz_event,       fuzz_http,          fuzz_der,
    fuzz_chain, fuzz_bundle, fuzz_tls_records, fuzz_tls_handshake, fuzz_dns,
};

/* A short turn of each fuzzer on texts that are nearly right. */
static void test_fuzz_entries(void)
{
    static u8 leaf[1000], chain[1200];
    iz n_leaf = tls_unhex(peer_leaf, leaf), n_chain = 0;
    for (int i = 0; i < 2; i++) { /* as its own root */
        chain[n_chain++] = (u8)(n_leaf >> 8);
        chain[n_chain++] = (u8)n_leaf;
        memcpy(chain + n_chain, leaf, (size_t)n_leaf);
        n_chain += n_leaf;
    }
    static u8 message[2000];
    iz n_dns =
        make_message(message, 77, REPLY, "a.test", 1, "@ CNAME 9 b.test;b.test A 60 1.2.3.4");
    static const char tfl[] =
        "[{\"id\":\"dlr\",\"name\":\"DLR\",\"lineStatuses\":[{\"statusSeverity\":9,\"reason\":"
        "\"DLR: Late "
        "n/b & at St Paul's <now>. \\ud83d\\ude87\",\"validityPeriods\":[{\"fromDate\":"
        "\"2026-11-23T07:00:00Z\",\"toDate\":\"2026-11-23T09:00:00Z\",\"isNow\":false}]},{"
        "\"statusSeverity\":6,\"statusSeverityDescription\":\"Severe\"}],\"description\":"
        "\"Both.. &\"}]";
    static const char http[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n5;x=y\r\n"
        "hello\r\n0\r\nT: u\r\n\r\n";
    const struct {
        const char *seed;
        iz len;
        int which;
    } rows[] = {{BYTES(tfl), 0},
                {BYTES(tfl), 1},
                {BYTES(unit_event), 1},
                {BYTES(unit_event), 2},
                {BYTES(http), 3},
                {(const char *)leaf, n_leaf, 4},
                {(const char *)chain, n_chain, 5},
                {BYTES(peer_root), 6},
                {(const char *)message, n_dns, 9}};
    for (iz i = 0; i < countof(rows); i++)
        for (int round = 0; round < 400; round++) {
            u8 data[2000];
            iz n = rows[i].len;
            memcpy(data, rows[i].seed, (size_t)n);
            for (u64 k = unit_random() % 4; k; k--) {
                iz at = (iz)(unit_random() % (u64)n);
                if (unit_random() % 2) {
                    data[at] = (u8)unit_random();
                } else {
                    memmove(data + at, data + at + 1, (size_t)(n - at - 1));
                    n--;
                }
            }
            fuzz_entry[rows[i].which](data, n);
        }
    CHECK(1);
}

/* ---------------------------------------------------------------------------------------------
 * The world around the skill: a local Lambda, stand-ins for TfL and for the preferences service
 *
 * A `world` is one bootstrap process with all that it talks to. It listens on loopback for the
 * Runtime API, the two upstreams and, for `serve`, AWS's invoke endpoint; one poll loop serves
 * them. Every request is kept whole for a test to look at. An answer is either the stand-in's own
 * or a planned one: each plan names a listener and a part of the path and serves the next request
 * that fits, delivered as the plan says, in as many pieces and with as violent an end as wanted.
 *
 * The stand-ins are strict where the skill must not be sloppy: a request with a bad head is
 * answered 400 and noted in `violations`, which a test must find empty. The JSON reader here is
 * written for the tests and shares nothing with the skill's.
 *
 * Wants _GNU_SOURCE and these headers above skill.c.
 * ------------------------------------------------------------------------------------------ */

/* ---- growing text ---- */

/* Bytes that grow; a NUL that does not count always follows them. */
typedef struct {
    char *ptr;
    iz len, cap;
} textbuf;

static void text_add(textbuf *t, const void *bytes, iz n)
{
    if (t->len + n + 1 > t->cap) {
        t->cap = 2 * (t->len + n + 1) + 64;
        t->ptr = realloc(t->ptr, (size_t)t->cap);
        if (!t->ptr)
            abort();
    }
    if (n)
        memcpy(t->ptr + t->len, bytes, (size_t)n);
    t->len += n;
    t->ptr[t->len] = 0;
}

static void text_puts(textbuf *t, const char *s)
{
    text_add(t, s, (iz)strlen(s));
}

__attribute__((format(printf, 2, 3))) static void text_format(textbuf *t, const char *format, ...)
{
    va_list args;
    char *formatted;
    va_start(args, format);
    int n = vasprintf(&formatted, format, args);
    va_end(args);
    if (n < 0)
        abort();
    text_add(t, formatted, n);
    free(formatted);
}

/* Empties it; the NUL is there even if nothing was ever added. */
static void text_clear(textbuf *t)
{
    t->len = 0;
    text_add(t, "", 0);
}

static void text_free(textbuf *t)
{
    free(t->ptr);
    *t = (textbuf){0};
}

static str text_str(const textbuf *t)
{
    return (str){(const u8 *)t->ptr, t->len};
}

static b32 text_has(const textbuf *t, const char *part)
{
    return t->len && memmem(t->ptr, (size_t)t->len, part, strlen(part));
}

static i64 now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

__attribute__((format(strftime, 2, 0))) static void text_time(textbuf *t, const char *format,
                                                              i64 seconds_from_now)
{
    char date[64];
    time_t then = time(NULL) + (time_t)seconds_from_now;
    struct tm tm;
    gmtime_r(&then, &tm);
    strftime(date, sizeof date, format, &tm);
    text_puts(t, date);
}

/* TfL's and Alexa's form of a time. */
static void text_date(textbuf *t, i64 seconds_from_now)
{
    text_time(t, "%Y-%m-%dT%H:%M:%SZ", seconds_from_now);
}

/* ---- a JSON reader for the tests: strict, recursive, slow ---- */

typedef struct {
    const u8 *at, *end;
    b32 bad;
} peeker;

static int peek_byte(peeker *p)
{
    if (p->at < p->end)
        return *p->at++;
    p->bad = 1;
    return 0;
}

static b32 peek_take(peeker *p, const char *word)
{
    iz n = (iz)strlen(word);
    b32 is = p->end - p->at >= n && !memcmp(p->at, word, (size_t)n);
    p->at += is ? n : 0;
    return is;
}

static void peek_space(peeker *p)
{
    while (p->at < p->end && strchr(" \t\r\n", *p->at) && *p->at)
        p->at++;
}

static u32 peek_hex4(peeker *p)
{
    u32 v = 0;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef0123456789ABCDEF";
        int byte = peek_byte(p);
        const char *digit = byte ? strchr(digits, byte) : NULL;
        p->bad |= !digit;
        v = v << 4 | (digit ? (u32)(digit - digits) & 15 : 0);
    }
    return v;
}

static void peek_utf8(textbuf *out, u32 c)
{
    char b[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        b[i] = (char)(0x80 | (c & 0x3f));
    b[0] = (char)(n == 1 ? c : (0xf00u >> n & 0xff) | c);
    text_add(out, b, n);
}

/* One character beyond ASCII: its form must be the shortest, no surrogate, at most U+10FFFF. */
static void peek_wide(peeker *p, int first, textbuf *out)
{
    int n = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    u32 c = (u32)first & (0x3fu >> n);
    for (int i = 0; i < n; i++) {
        int byte = peek_byte(p);
        p->bad |= (byte & 0xc0) != 0x80;
        c = c << 6 | ((u32)byte & 0x3f);
    }
    u32 least = n == 1 ? 0x80 : n == 2 ? 0x800 : 0x10000;
    p->bad |= first < 0xc2 || first > 0xf4 || c < least || c > 0x10ffff || c >> 11 == 0x1b;
    if (!p->bad)
        peek_utf8(out, c);
}

static void peek_escape(peeker *p, textbuf *out)
{
    const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";
    int byte = peek_byte(p);
    const char *name = byte ? strchr(names, byte) : NULL;
    if (name) {
        text_add(out, values + (name - names), 1);
        return;
    }
    p->bad |= byte != 'u';
    u32 c = peek_hex4(p);
    if (c >> 10 == 0x36) {
        p->bad |= !peek_take(p, "\\u");
        u32 low = peek_hex4(p);
        p->bad |= low >> 10 != 0x37;
        c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
    } else {
        p->bad |= c >> 10 == 0x37;
    }
    if (!p->bad)
        peek_utf8(out, c);
}

static void peek_string(peeker *p, textbuf *out)
{
    text_clear(out);
    p->bad |= !peek_take(p, "\"");
    while (!p->bad) {
        int byte = peek_byte(p);
        if (byte == '"')
            return;
        p->bad |= byte < 0x20;
        if (byte == '\\')
            peek_escape(p, out);
        else if (byte >= 0x80)
            peek_wide(p, byte, out);
        else
            text_add(out, &(char){(char)byte}, 1);
    }
}

static iz peek_digits(peeker *p)
{
    const u8 *start = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9')
        p->at++;
    return p->at - start;
}

static void peek_number(peeker *p)
{
    peek_take(p, "-");
    p->bad |= !peek_take(p, "0") && !peek_digits(p);
    if (peek_take(p, "."))
        p->bad |= !peek_digits(p);
    if (peek_take(p, "e") || peek_take(p, "E")) {
        if (!peek_take(p, "+"))
            peek_take(p, "-");
        p->bad |= !peek_digits(p);
    }
}

static char peek_value(peeker *p, const char *path, textbuf *out, int depth);

/* The members of an object or the elements of an array, whose bracket has been taken. */
static char peek_members(peeker *p, b32 object, const char *path, textbuf *out, int depth)
{
    const char *end = object ? "}" : "]";
    char found = 0;
    textbuf name = {0};
    peek_space(p);
    if (peek_take(p, end))
        return 0;
    for (iz i = 0; !p->bad; i++) {
        text_clear(&name);
        peek_space(p);
        if (object) {
            peek_string(p, &name);
            peek_space(p);
            p->bad |= !peek_take(p, ":");
        } else {
            text_format(&name, "%td", i);
        }
        iz n = name.len;
        b32 here =
            path && !found && !strncmp(path, name.ptr, (size_t)n) && (!path[n] || path[n] == '.');
        char kind = peek_value(p, here ? path + n + (path[n] == '.') : NULL, out, depth + 1);
        found = here ? kind : found;
        peek_space(p);
        if (peek_take(p, end))
            break;
        p->bad |= !peek_take(p, ",");
    }
    text_free(&name);
    return found;
}

/* Reads one value. path is the way to the wanted value from here, "" if it is this one, NULL if
 * it is not below here. Returns the kind of the wanted value, or 0. */
static char peek_value(peeker *p, const char *path, textbuf *out, int depth)
{
    textbuf scratch = {0};
    b32 here = path && !*path;
    char kind = 'n', found = 0;
    peek_space(p);
    const u8 *start = p->at;
    p->bad |= depth > 1000 || p->at == p->end;
    if (p->bad)
        return 0;
    if (*p->at == '"')
        kind = 's', peek_string(p, here ? out : &scratch);
    else if (peek_take(p, "{"))
        kind = '{', found = peek_members(p, 1, here ? NULL : path, out, depth);
    else if (peek_take(p, "["))
        kind = '[', found = peek_members(p, 0, here ? NULL : path, out, depth);
    else if (peek_take(p, "true"))
        kind = 't';
    else if (peek_take(p, "false"))
        kind = 'f';
    else if (peek_take(p, "null"))
        kind = '0';
    else
        peek_number(p);
    if (here && kind != 's') {
        text_clear(out);
        text_add(out, start, p->at - start);
    }
    text_free(&scratch);
    return here ? kind : found;
}

/* Finds a value by its path ("response.card.title", "0.id") and puts a string decoded, anything
 * else as it stands, into out. Returns what it is: s(tring), n(umber), t(rue), f(alse), 0 (null),
 * { or [; NUL if there is none; '!' if the text is not strict JSON from end to end. */
static char peek_json(str from, const char *path, textbuf *out)
{
    peeker p = {from.ptr, from.ptr + from.len, 0};
    text_clear(out);
    char kind = peek_value(&p, path, out, 0);
    peek_space(&p);
    return p.bad || p.at != p.end ? '!' : kind;
}

/* A string as JSON, quotes and all; NULL is null. */
static void text_json(textbuf *t, const char *s)
{
    if (!s) {
        text_puts(t, "null");
        return;
    }
    text_puts(t, "\"");
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            text_format(t, "\\%c", *s);
        else if ((u8)*s < 0x20)
            text_format(t, "\\u%04x", *s);
        else
            text_add(t, s, 1);
    }
    text_puts(t, "\"");
}

/* JSON from a template: ' stands for a quote, @ for the next argument as a JSON string (NULL as
 * null), # for the next argument as it is, ~ for the name space that TfL's types are in. */
static void text_fill(textbuf *t, const char *form, ...)
{
    va_list args;
    va_start(args, form);
    for (; *form; form++) {
        if (*form == '@')
            text_json(t, va_arg(args, const char *));
        else if (*form == '#')
            text_puts(t, va_arg(args, const char *));
        else if (*form == '~')
            text_puts(t, "Tfl.Api.Presentation.Entities");
        else
            text_add(t, *form == '\'' ? "\"" : form, 1);
    }
    va_end(args);
}

/* ---- the state of a world ---- */

enum { W_API, W_TFL, W_PREFS, W_INVOKE, W_LISTENERS };
enum {
    W_CONNS = 48,                        /* open connections to all listeners of a world */
    W_PLANS = 16,                        /* planned answers at a time */
    W_ENV = 512,                         /* environment variables of the child */
    W_SLOTS = W_LISTENERS + 1 + W_CONNS, /* what poll watches: listeners, the log, connections */
    W_TOGETHER = 16,                     /* worlds that may be pumped together */
    W_EVENT_SIZED = 2048,                /* Lambda sends longer events in chunks */
};

typedef enum { W_AUTO, W_SIZED, W_CHUNKED, W_TO_CLOSE, W_RAW } world_framing;
typedef enum { W_KEEP, W_CLOSE, W_RESET } world_after;

/* Text for a static initialiser, which S() does not make. */
#define BODY(text)                               \
    {                                            \
        (const u8 *)(text), (iz)sizeof(text) - 1 \
    }

/* An answer and how it is delivered. All zero but the status is a plain good one. */
typedef struct {
    int status;          /* 0: no byte of an answer, only what `after` says */
    const char *headers; /* further header lines, each with its CR LF, or NULL */
    str body;            /* W_RAW: all that is sent, status line and head too */
    world_framing framing;
    iz chunk;  /* bytes per chunk; 0: 4,096 */
    b32 fancy; /* chunks with extensions, and a trailer */
    iz piece;  /* bytes per send; 0: all at once */
    iz split;  /* bytes of the first send; 0: no split */
    iz cut;    /* bytes that are ever sent, or less than 0: not sent; 0: all */
    world_after after;
    int delay_ms;
} world_reply;

typedef struct {
    int listener;
    const char *path; /* part of the path that it is for */
    world_reply reply;
} world_plan_row;

typedef struct {
    int listener;
    int conn; /* serial number of the connection it came by */
    char method[8];
    textbuf path, head, body; /* head: all header lines with their CR LF */
} world_request;

typedef struct {
    int fd; /* -1: free */
    int listener;
    int serial;
    b32 next; /* a GET .../next stands here and waits for an event */
    b32 held; /* some other request is answered later or never */
    i64 due;  /* when its answer may go out; 0: there is none */
    textbuf in, out;
    iz sent;
    world_reply how;
} world_conn;

/* One event and what came of it. */
typedef struct {
    str event;
    world_reply how;           /* delivery of the event; status and body are filled in */
    const char *id;            /* request id; NULL: one is made */
    const char *invocation_id; /* Lambda-Runtime-Invocation-Id; NULL: none */
    b32 no_id, no_deadline, no_arn, no_trace;
    int deadline_ms;    /* from now; 0: 8,000 */
    world_reply answer; /* to the POST; status 0: 202; the body is filled in */

    char outcome; /* 0 not yet, r(esponse), e(rror), x (the process ended), t(ime-out) */
    b32 handed;
    char made_id[64];
    i64 start, ns;            /* from the hand-over of the event to the whole POST */
    textbuf path, head, body; /* of the POST */
} world_event;

typedef struct {
    int listener[W_LISTENERS];
    int port[W_LISTENERS];
    const char *api_prefix; /* path before /2018-06-01 that the runtime was given */
    world_conn conn[W_CONNS];
    int serial;
    world_request *request;
    iz requests;
    world_plan_row plan[W_PLANS];
    iz plans;
    textbuf violations;

    char *env[W_ENV + 1];
    iz env_count;
    pid_t pid;
    int log_fd;
    textbuf log;
    FILE *log_shown;         /* where it is copied as it comes (serve), or NULL */
    int exit_status;         /* as waitpid gives it, once pid is 0 again */
    i64 started, first_next; /* ns; first_next 0 until the first GET .../next */
    int nexts;               /* GETs of .../next taken so far */
    textbuf init_error;

    world_event *current;
    int invocations;
    struct crowd *crowd; /* many events at once, instead of the current one */
    b32 forget;          /* the requests so far, at the end of this turn */
    const char *root;    /* directory that the program has for its root; NULL: as it is */

    /* what the stand-ins say */
    const char *favourites;           /* JSON array */
    const char *token;                /* the access token that is good */
    const char *reason_line, *reason; /* a reason of a test's own, said of this line */
} world;

/* ---- set-up ---- */

static int world_listen(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((u16)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int world_port(int fd)
{
    struct sockaddr_in a = {0};
    socklen_t n = sizeof a;
    getsockname(fd, (struct sockaddr *)&a, &n);
    return ntohs(a.sin_port);
}

/* Sets NAME=value, or takes NAME away. The child's environment holds nothing else. */
static void world_env(world *w, const char *pair)
{
    iz n = (iz)strcspn(pair, "="), i = 0;
    while (i < w->env_count && (strncmp(w->env[i], pair, (size_t)n) || w->env[i][n] != '='))
        i++;
    if (i < w->env_count) {
        free(w->env[i]);
        w->env[i] = w->env[--w->env_count];
    }
    if (pair[n] && w->env_count < W_ENV)
        w->env[w->env_count++] = strdup(pair);
    w->env[w->env_count] = NULL;
}

static void world_env_format(world *w, const char *format, int port)
{
    textbuf t = {0};
    const char *at = strstr(format, "%d");
    text_add(&t, format, at - format);
    text_format(&t, "%d%s", port, at + 2);
    world_env(w, t.ptr);
    text_free(&t);
}

static const char world_skill_id[] = "amzn1.ask.skill.49f13574-8134-4748-afeb-62ef4defffa6";
static const char world_token[] = "Zm9vYmFy.token-MARKER_0~1+2/3==";

/* The variables of a function on provided.al2023, and the skill's own for these stand-ins. */
static void world_default_env(world *w)
{
    static const char *const pairs[] = {
        "PATH=/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "TZ=:UTC",
        "_HANDLER=bootstrap",
        "LAMBDA_TASK_ROOT=/var/task",
        "AWS_REGION=eu-west-1",
        "AWS_ACCESS_KEY_ID=ASIAKEYMARKER",
        "AWS_SECRET_ACCESS_KEY=secret-key-MARKER",
        "AWS_SESSION_TOKEN=session-token-MARKER",
        "AWS_LAMBDA_FUNCTION_NAME=london-travel",
        "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
        "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/london-travel",
        "AWS_LAMBDA_LOG_STREAM_NAME=2026/10/01/[$LATEST]0123456789abcdef0123456789abcdef",
        "AWS_LAMBDA_LOG_FORMAT=JSON",
        "Skill__TflApplicationId=app-id-MARKER",
        "Skill__TflApplicationKey=app-key-MARKER",
        "Skill__SkillId=amzn1.ask.skill.49f13574-8134-4748-afeb-62ef4defffa6",
    };
    for (iz i = 0; i < countof(pairs); i++)
        world_env(w, pairs[i]);
}

static void world_urls(world *w)
{
    world_env_format(w, "AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d", w->port[W_API]);
    world_env_format(w, "Skill__TflApiUrl=http://127.0.0.1:%d/", w->port[W_TFL]);
    world_env_format(w, "Skill__SkillApiUrl=http://127.0.0.1:%d", w->port[W_PREFS]);
}

/* Opens the listeners and makes the default environment; no process yet. */
static void world_open(world *w)
{
    *w = (world){.log_fd = -1, .api_prefix = "", .token = world_token};
    w->favourites = "[\"victoria\",\"northern\"]";
    for (int i = 0; i < W_CONNS; i++)
        w->conn[i].fd = -1;
    for (int i = 0; i < W_LISTENERS; i++) {
        w->listener[i] = i == W_INVOKE ? -1 : world_listen(0);
        w->port[i] = i == W_INVOKE ? 0 : world_port(w->listener[i]);
    }
    text_clear(&w->violations);
    text_clear(&w->log);
    text_clear(&w->init_error);
    world_default_env(w);
    world_urls(w);
}

static void conn_close(world_conn *c, b32 reset)
{
    if (c->fd < 0)
        return;
    if (reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(c->fd);
    text_free(&c->in);
    text_free(&c->out);
    *c = (world_conn){.fd = -1};
}

/* Adds an answer for the next request to this listener whose path holds `path`. */
static void world_plan(world *w, int listener, const char *path, world_reply reply)
{
    if (w->plans < W_PLANS)
        w->plan[w->plans++] = (world_plan_row){listener, path, reply};
    else
        text_puts(&w->violations, "planned answers are not asked for\n");
}

/* Closes the port, so that new connections to it are refused, until world_reopen. */
static void world_refuse(world *w, int listener)
{
    close(w->listener[listener]);
    w->listener[listener] = -1;
}

static void world_accept(world *w, int listener)
{
    for (;;) {
        int fd = accept4(w->listener[listener], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        int i = 0;
        while (i < W_CONNS && w->conn[i].fd >= 0)
            i++;
        if (i < W_CONNS)
            w->conn[i] = (world_conn){.fd = fd, .listener = listener, .serial = ++w->serial};
        else
            close(fd);
    }
}

/* Ends the connections to this listener, kept ones among them, behind the client's back. */
static void world_drop(world *w, int listener, b32 reset)
{
    for (int i = 0; i < W_CONNS; i++)
        if (w->conn[i].fd >= 0 && w->conn[i].listener == listener)
            conn_close(&w->conn[i], reset);
}

static void world_reopen(world *w, int listener)
{
    w->listener[listener] = world_listen(w->port[listener]);
}

/* Beside the running program, unless $BOOTSTRAP says otherwise. */
static const char *world_bootstrap(void)
{
    static char path[4096];
    if (getenv("BOOTSTRAP"))
        return getenv("BOOTSTRAP");
    iz n = readlink("/proc/self/exe", path, sizeof path - 16);
    while (n > 0 && path[n - 1] != '/')
        n--;
    strcpy(path + (n > 0 ? n : 0), "bootstrap");
    return path;
}

static b32 root_enter(const char *dir);

static void world_exec(world *w, int out, pid_t parent)
{
    const char *path = world_bootstrap(), *runner = getenv("RUNNER");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (w->root) { /* new rights take the signal of a parent's end away */
        if (!root_enter(w->root) || prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
            _exit(126);
        path = "/bootstrap", runner = runner && *runner ? "/runner" : NULL;
    }
    if (runner && *runner)
        execvpe(runner, (char *[]){(char *)(uz)runner, (char *)(uz)path, NULL}, w->env);
    else
        execve(path, (char *[]){(char *)(uz) "bootstrap", NULL}, w->env);
    dprintf(2, "cannot run %s: %s\n", path, strerror(errno));
    _exit(127);
}

/* Starts the bootstrap. In a group of its own, so that ^C at `serve` reaches only the parent. */
static void world_start(world *w)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        abort();
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < W_INVOKE; i++) /* what an earlier child left, accepted or not */
        world_accept(w, i), world_drop(w, i, 0);
    pid_t parent = getpid();
    w->first_next = 0;
    w->started = now_ns();
    w->pid = fork();
    if (w->pid < 0)
        abort();
    if (!w->pid) {
        setpgid(0, 0);
        world_exec(w, fds[1], parent);
    }
    close(fds[1]);
    if (w->log_fd >= 0)
        close(w->log_fd);
    w->log_fd = fds[0];
}

/* ---- connections ---- */

static const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } rows[] = {
        {200, "OK"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {413, "Payload Too Large"},
        {429, "Too Many Requests"},
    };
    for (iz i = 0; i < countof(rows); i++)
        if (rows[i].status == status)
            return rows[i].reason;
    return status >= 500 ? "Internal Server Error" : "Some Reason";
}

static void text_chunks(textbuf *t, const world_reply *a)
{
    iz size = a->chunk ? a->chunk : 4096;
    for (iz at = 0; at < a->body.len; at += size) {
        iz n = a->body.len - at < size ? a->body.len - at : size;
        text_format(t, "%tx%s\r\n", n, a->fancy ? ";name=\"va;lue\"" : "");
        text_add(t, a->body.ptr + at, n);
        text_puts(t, "\r\n");
    }
    text_puts(t, a->fancy ? "000;last\r\nX-Trailer: 1\r\nX-Other:\r\n\r\n" : "0\r\n\r\n");
}

/* The bytes of an answer, as framed. */
static void text_reply(textbuf *t, const world_reply *a)
{
    world_framing framing = a->framing;
    if (framing == W_AUTO)
        framing = a->body.len > W_EVENT_SIZED ? W_CHUNKED : W_SIZED;
    if (framing != W_RAW) {
        text_format(t, "HTTP/1.1 %d %s\r\n", a->status, http_reason(a->status));
        text_time(t, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", 0);
        text_puts(t, a->headers ? a->headers : "");
        if (!a->headers || !strcasestr(a->headers, "content-type:"))
            text_puts(t, "Content-Type: application/json\r\n");
    }
    if (framing == W_CHUNKED)
        text_puts(t, "Transfer-Encoding: chunked\r\n\r\n"), text_chunks(t, a);
    else if (framing == W_SIZED && a->status != 204)
        text_format(t, "Content-Length: %td\r\n\r\n", a->body.len);
    else if (framing != W_RAW)
        text_puts(t, "\r\n");
    if (framing != W_CHUNKED)
        text_add(t, a->body.ptr, a->body.len);
    if (a->cut)
        t->len = a->cut > 0 ? a->cut : t->len + a->cut;
}

/* Waits until the child sleeps in the kernel, that is until it has taken what was sent and wants
 * more, so that pieces are not read as one. A few ms at most: this makes splits real, not right. */
static void world_settle(const world *w)
{
    char path[64], stat[512];
    snprintf(path, sizeof path, "/proc/%d/stat", w->pid);
    for (i64 end = now_ns() + 20000000; now_ns() < end;) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        iz n = read(fd, stat, sizeof stat - 1);
        close(fd);
        stat[n > 0 ? n : 0] = 0;
        const char *state = strrchr(stat, ')');
        if (!state || state[2] == 'S' || state[2] == 'Z')
            return;
        sched_yield();
    }
}

/* Sends what is due, in its pieces; at the end does what the answer says. */
static void conn_flush(world *w, world_conn *c)
{
    b32 pieces = c->how.piece || c->how.split;
    while (c->sent < c->out.len) {
        iz n = c->out.len - c->sent;
        if (!c->sent && c->how.split && c->how.split < n)
            n = c->how.split;
        else if (c->how.piece && c->how.piece < n)
            n = c->how.piece;
        if (pieces)
            world_settle(w);
        iz put_now = send(c->fd, c->out.ptr + c->sent, (size_t)n, MSG_NOSIGNAL);
        if (put_now < 0 && errno == EINTR)
            continue;
        if (put_now < 0 && errno == EAGAIN)
            return;
        if (put_now < 0) {
            conn_close(c, 0);
            return;
        }
        c->sent += put_now;
    }
    if (c->out.cap > 1 << 16)
        text_free(&c->out);
    text_clear(&c->out);
    c->sent = 0;
    c->due = 0;
    if (c->how.after != W_KEEP)
        conn_close(c, c->how.after == W_RESET);
}

static void conn_answer(world_conn *c, const world_reply *a)
{
    c->next = c->held = 0;
    c->how = *a;
    if (a->framing == W_TO_CLOSE)
        c->how.after = a->after == W_RESET ? W_RESET : W_CLOSE;
    if (a->status || a->framing == W_RAW)
        text_reply(&c->out, a);
    else
        c->held = a->after == W_KEEP; /* silence */
    c->how.headers = NULL;
    c->how.body = S("");
    c->due = now_ns() + a->delay_ms * 1000000LL;
}

static void conn_answer_json(world_conn *c, int status, const char *body)
{
    world_reply a = {.status = status, .body = {(const u8 *)body, (iz)strlen(body)}};
    conn_answer(c, &a);
}

/* ---- requests ---- */

static void world_note(world *w, const char *what, const world_request *q)
{
    text_format(&w->violations, "%s: %s %s\n", what, q->method, q->path.ptr);
}

/* The value of a header that must stand there exactly once; case of the name is ignored. False,
 * with out as it was, if it stands there not at all or more than once. */
static b32 head_value(const textbuf *head, const char *name, textbuf *out)
{
    iz n = (iz)strlen(name), length = 0;
    const char *value = NULL;
    int found = 0;
    for (const char *at = head->ptr; at && *at;) {
        const char *end = strstr(at, "\r\n");
        if (end && !strncasecmp(at, name, (size_t)n) && at[n] == ':' && !found++) {
            value = at + n + 1 + strspn(at + n + 1, " \t");
            length = end - value;
        }
        at = end ? end + 2 : NULL;
    }
    if (found != 1)
        return 0;
    text_clear(out);
    text_add(out, value, length);
    return 1;
}

/* What any server may expect of a request's head. */
static void world_inspect(world *w, const world_request *q)
{
    textbuf v = {0};
    if (q->listener == W_INVOKE)
        return;
    if (!head_value(&q->head, "Host", &v) || !v.len)
        world_note(w, "not one Host", q);
    if (!head_value(&q->head, "User-Agent", &v) || !v.len)
        world_note(w, "no User-Agent", q);
    if (q->path.ptr[0] != '/')
        world_note(w, "path without slash", q);
    for (iz i = 0; i < q->path.len; i++)
        if (q->path.ptr[i] <= 0x20 || q->path.ptr[i] >= 0x7f)
            world_note(w, "path not visible ASCII", q);
    for (const char *at = q->head.ptr; (at = strchr(at, '\n')); at++)
        if (at == q->head.ptr || at[-1] != '\r')
            world_note(w, "bare LF", q);
    b32 post = !strcmp(q->method, "POST");
    if (!post && strcmp(q->method, "GET"))
        world_note(w, "method", q);
    if (post != head_value(&q->head, "Content-Length", &v))
        world_note(w, "Content-Length", q);
    if (post && (!head_value(&q->head, "Content-Type", &v) || strcmp(v.ptr, "application/json")))
        world_note(w, "Content-Type", q);
    if (head_value(&q->head, "Transfer-Encoding", &v))
        world_note(w, "Transfer-Encoding", q);
    text_free(&v);
}

/* Takes one whole request off the connection's input, if it is there. */
static b32 conn_request(world *w, world_conn *c, world_request *q)
{
    textbuf length = {0};
    char *end = c->in.len ? memmem(c->in.ptr, (size_t)c->in.len, "\r\n\r\n", 4) : NULL;
    char *start = c->in.ptr;
    if (!end)
        return 0;
    *q = (world_request){.listener = c->listener, .conn = c->serial};
    iz method = (iz)strcspn(start, " \r"), target = (iz)strcspn(start + method + 1, " \r");
    char *rest = strstr(start, "\r\n") + 2;
    snprintf(q->method, sizeof q->method, "%.*s", (int)method, start);
    text_add(&q->path, start + method + 1, target);
    text_clear(&q->head);
    text_add(&q->head, rest, end + 2 > rest ? end + 2 - rest : 0);
    iz n = head_value(&q->head, "Content-Length", &length) ? atol(length.ptr) : 0;
    iz have = c->in.ptr + c->in.len - (end + 4);
    if (have < n) {
        if (text_has(&q->head, "100-continue") && !have)
            text_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n"), conn_flush(w, c);
        text_free(&q->path), text_free(&q->head), text_free(&length);
        return 0;
    }
    text_add(&q->body, end + 4, n);
    textbuf left = {0};
    text_add(&left, end + 4 + n, have - n);
    text_free(&c->in), text_free(&length);
    c->in = left;
    return 1;
}

static void world_forget(world *w)
{
    for (iz i = 0; i < w->requests; i++) {
        text_free(&w->request[i].path);
        text_free(&w->request[i].head);
        text_free(&w->request[i].body);
    }
    free(w->request);
    w->request = NULL;
    w->requests = 0;
}

/* How many requests came to this listener with this in their path; the last one to *last. */
static iz world_count(const world *w, int listener, const char *path, const world_request **last)
{
    iz n = 0;
    for (iz i = 0; i < w->requests; i++)
        if (w->request[i].listener == listener && strstr(w->request[i].path.ptr, path)) {
            n++;
            if (last)
                *last = &w->request[i];
        }
    return n;
}

/* ---- what TfL and the preferences service say ---- */

/* TfL's lines in the order of its answers. */
static const struct {
    const char *id, *name, *mode;
} standin_lines[] = {
    {"bakerloo", "Bakerloo", "tube"},
    {"central", "Central", "tube"},
    {"circle", "Circle", "tube"},
    {"district", "District", "tube"},
    {"dlr", "DLR", "dlr"},
    {"elizabeth", "Elizabeth line", "elizabeth-line"},
    {"hammersmith-city", "Hammersmith & City", "tube"},
    {"jubilee", "Jubilee", "tube"},
    {"liberty", "Liberty", "overground"},
    {"lioness", "Lioness", "overground"},
    {"metropolitan", "Metropolitan", "tube"},
    {"mildmay", "Mildmay", "overground"},
    {"northern", "Northern", "tube"},
    {"piccadilly", "Piccadilly", "tube"},
    {"suffragette", "Suffragette", "overground"},
    {"victoria", "Victoria", "tube"},
    {"waterloo-city", "Waterloo & City", "tube"},
    {"weaver", "Weaver", "overground"},
    {"windrush", "Windrush", "overground"},
};

typedef struct {
    const char *line;
    int severity;
    const char *words, *closure; /* statusSeverityDescription, closureText */
    char when;                   /* n: now, l: later, -: no period is given */
    const char *category, *reason;
} standin_status;

/* What is not as usual. Lines without a row have a good service. TfL's habits are all here: one
 * reason in two statuses, doubled and trailing blanks, prefixes in three spellings or none,
 * abbreviations, a colon inside the text, works that are only planned, a closure without a
 * reason. */
static const standin_status standin_statuses[] = {
    {"central", 9, "Minor Delays", "minorDelays", 'n', "RealTime",
     "Central Line: Minor delays between Leytonstone and Epping, E/B only, due to an earlier "
     "signal failure at Woodford.  GOOD SERVICE on the rest of the line. "},
    {"circle", 3, "Part Suspended", "partSuspended", 'n', "RealTime",
     "Circle Line: No service between Edgware Road and Aldgate via High St Kensington while we "
     "deal with a track fault at Gloucester Road. SEVERE DELAYS on the rest of the line. "},
    {"circle", 6, "Severe Delays", "severeDelays", 'n', "RealTime",
     "Circle Line: No service between Edgware Road and Aldgate via High St Kensington while we "
     "deal with a track fault at Gloucester Road. SEVERE DELAYS on the rest of the line. "},
    {"district", 6, "Severe Delays", "severeDelays", 'n', "RealTime",
     "District Line: Severe delays due to train cancellations. Tickets are being accepted on "
     "London Buses, c2c & South Western Railway."},
    {"district", 5, "Part Closure", "partClosure", 'l', "PlannedWork",
     "DISTRICT LINE: From Saturday until Sunday, no service between Turnham Green and Richmond. "
     "Replacement buses operate."},
    {"elizabeth", 9, "Minor Delays", "minorDelays", 'n', "RealTime",
     "Elizabeth Line: Minor delays between Paddington and Heathrow T5 W/B only while we fix a "
     "faulty train at Hayes & Harlington."},
    {"hammersmith-city", 6, "Severe Delays", "severeDelays", 'n', "RealTime",
     "Hammersmith and City Line: Severe delays due to an earlier person ill on a train at "
     "Liverpool St. "},
    {"mildmay", 3, "Part Suspended", "partSuspended", 'n', "RealTime",
     "Mildmay Line: No service between Willesden Junction and Richmond due to a points failure "
     "at Gunnersbury. London Buses are accepting tickets via reasonable routes. GOOD SERVICE on "
     "all other routes. "},
    {"northern", 9, "Minor Delays", "minorDelays", 'n', "RealTime",
     "NORTHERN LINE: Minor  delays between Camden Town and Kennington via Charing Cross N/B due "
     "to a customer incident.  Please note: step-free access at King's Cross St Pancras is "
     "not affected. "},
    {"piccadilly", 4, "Planned Closure", "plannedClosure", 'l', "PlannedWork",
     "PICCADILLY LINE: Sunday, no service between Hammersmith and Uxbridge until 1000."},
    {"suffragette", 13, "No Step Free Access", "noStepFreeAccess", '-', "Information", NULL},
    {"waterloo-city", 20, "Service Closed", "serviceClosed", 'n', "RealTime",
     "Waterloo and City Line: Train service will resume at 06:15 tomorrow. "},
    {"windrush", 9, "Minor Delays", "minorDelays", 'n', "RealTime",
     "Windrush Line: Minor delays due to a shortage of trains."},
};

/* Ends a list of which every element has been followed by a comma. */
static void text_end_list(textbuf *t)
{
    t->len -= t->ptr[t->len - 1] == ',';
    text_puts(t, "]");
}

static void text_disruption(textbuf *t, const standin_status *s, b32 listed)
{
    text_fill(t, "{'$type':'~.Disruption, ~','category':@,#'categoryDescription':@,", s->category,
              listed ? "\"type\":\"lineInfo\"," : "", s->category);
    text_fill(t, "'description':@,'affectedRoutes':[],'affectedStops':[],'closureText':@}",
              s->reason, s->closure);
}

static void text_status(textbuf *t, const char *id, const standin_status *s)
{
    b32 now = s->when == 'n';
    text_fill(t, "{'$type':'~.LineStatus, ~','id':0,'lineId':@,'statusSeverity':", id);
    text_format(t, "%d,", s->severity);
    text_fill(t, "'statusSeverityDescription':@,", s->words);
    if (s->reason)
        text_fill(t, "'reason':@,", s->reason);
    text_fill(t, "'created':'0001-01-01T00:00:00','validityPeriods':[");
    if (s->when != '-') {
        text_fill(t, "{'$type':'~.ValidityPeriod, ~','fromDate':'");
        text_date(t, now ? -3600 : 2 * 86400);
        text_fill(t, "','toDate':'");
        text_date(t, now ? 7200 : 3 * 86400);
        text_fill(t, "','isNow':#}", now ? "true" : "false");
    }
    text_fill(t, s->reason ? "],'disruption':" : "]");
    if (s->reason)
        text_disruption(t, s, 0);
    text_puts(t, "},");
}

/* The statuses of one line: a test's own, the table's, or a good service. Works that are only
 * planned for later stand beside the good service of today. */
static void text_statuses(textbuf *t, const world *w, const char *id)
{
    standin_status own = {id, 6, "Severe Delays", "severeDelays", 'n', "RealTime", w->reason};
    standin_status good = {id, 10, "Good Service", NULL, '-', NULL, NULL};
    b32 mine = w->reason && !strcmp(w->reason_line, id), now = mine;
    if (mine)
        text_status(t, id, &own);
    for (iz i = 0; !mine && i < countof(standin_statuses); i++) {
        if (strcmp(standin_statuses[i].line, id))
            continue;
        text_status(t, id, &standin_statuses[i]);
        now |= standin_statuses[i].when != 'l';
    }
    if (!now)
        text_status(t, id, &good);
    text_end_list(t);
}

static void text_line(textbuf *t, const world *w, iz i)
{
    const char *id = standin_lines[i].id, *name = standin_lines[i].name;
    text_fill(t, "{'$type':'~.Line, ~','id':@,'name':@,'modeName':@,'disruptions':[],", id, name,
              standin_lines[i].mode);
    text_fill(t, "'created':'2026-09-22T12:31:16.64Z','modified':'2026-09-22T12:31:16.64Z',"
                 "'lineStatuses':[");
    text_statuses(t, w, id);
    text_fill(t,
              ",'routeSections':[],'serviceTypes':[{'$type':'~.LineServiceTypeInfo, ~',"
              "'name':'Regular','uri':'/Line/Route?ids=#&serviceTypes=Regular'}],"
              "'crowding':{'$type':'~.Crowding, ~'}},",
              name);
}

/* TfL repeats the request's path and query, and with it the key, in its errors. */
static int text_not_found(textbuf *t, const char *what, const world_request *q)
{
    text_fill(t,
              "{'$type':'~.ApiError, ~','timestampUtc':'2026-10-01T08:00:00.1234567Z',"
              "'exceptionType':'EntityNotFoundException','httpStatusCode':404,"
              "'httpStatus':'NotFound','relativeUri':@,'message':'upstream-body-MARKER #'}",
              q->path.ptr, what);
    return 404;
}

/* The ids of /Line/{ids}/Status as [line]: wanted; an id that is not TfL's gives 0. */
static b32 tfl_ids(const char *path, b32 wanted[countof(standin_lines)])
{
    const char *end = path + strcspn(path, "/?");
    while (path < end) {
        iz n = (iz)strcspn(path, ",%/?"), i = 0;
        while (i < countof(standin_lines) &&
               (strncasecmp(standin_lines[i].id, path, (size_t)n) || standin_lines[i].id[n]))
            i++;
        if (i == countof(standin_lines))
            return 0;
        wanted[i] = 1;
        path += n;
        path += *path == ',' ? 1 : !strncasecmp(path, "%2c", 3) ? 3 : 0;
        if (*path == '%')
            return 0;
    }
    return 1;
}

static int tfl_body(const world *w, const world_request *q, textbuf *t)
{
    static const char modes[] = "/Line/Mode/dlr%2Celizabeth-line%2Coverground%2Ctube/Disruption";
    b32 wanted[countof(standin_lines)] = {0};
    iz n = (iz)strcspn(q->path.ptr, "?");
    b32 disruption = n == countof(modes) - 1 && !strncmp(q->path.ptr, modes, (size_t)n);
    b32 status =
        !strncmp(q->path.ptr, "/Line/", 6) && n > 13 && !strncmp(q->path.ptr + n - 7, "/Status", 7);
    if (!disruption && !status)
        return text_not_found(t, "No HTTP resource was found that matches the request URI", q);
    if (status && !tfl_ids(q->path.ptr + 6, wanted))
        return text_not_found(t, "The following line id is not recognised", q);
    text_puts(t, "[");
    standin_status own = {"", 6, "Severe Delays", "severeDelays", 'n', "RealTime", w->reason};
    if (disruption && w->reason)
        text_disruption(t, &own, 1), text_puts(t, ",");
    for (iz i = 0; disruption && i < countof(standin_statuses); i++)
        if (standin_statuses[i].when != 'l')
            text_disruption(t, &standin_statuses[i], 1), text_puts(t, ",");
    for (iz i = 0; i < countof(standin_lines); i++)
        if (wanted[i])
            text_line(t, w, i);
    text_end_list(t);
    return 200;
}

static void tfl_answer(const world *w, world_conn *c, const world_request *q)
{
    textbuf body = {0}, agent = {0};
    world_reply a = {.framing = W_CHUNKED};
    a.headers = "Cache-Control: public, must-revalidate, max-age=30\r\nServer: cloudflare\r\n";
    if (!head_value(&q->head, "User-Agent", &agent) || !agent.len) {
        text_puts(&body, "<html><title>403 Forbidden</title></html>");
        a.status = 403;
    } else {
        a.status = tfl_body(w, q, &body);
    }
    a.body = text_str(&body);
    conn_answer(c, &a);
    text_free(&body), text_free(&agent);
}

static void prefs_answer(const world *w, world_conn *c, const world_request *q)
{
    textbuf body = {0}, bearer = {0};
    b32 known = !strcmp(q->path.ptr, "/api/preferences");
    b32 good = head_value(&q->head, "Authorization", &bearer) &&
               !strncmp(bearer.ptr, "Bearer ", 7) && !strcmp(bearer.ptr + 7, w->token);
    world_reply a = {.status = !known ? 404 : good ? 200 : 401, .framing = W_SIZED};
    if (a.status == 200)
        text_fill(&body, "{'favoriteLines':#,'userId':'prefs-user-MARKER'}", w->favourites);
    else
        text_fill(&body, "{'message':'upstream-body-MARKER','requestId':'0HN0','details':[]}");
    a.body = text_str(&body);
    conn_answer(c, &a);
    text_free(&body), text_free(&bearer);
}

/* ---- the Runtime API ---- */

/* Hands the waiting event to a connection that has asked for it. */
static void api_hand_over(world *w, world_conn *c)
{
    world_event *v = w->current;
    textbuf headers = {0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    i64 unix_ms = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
    if (!v->no_id)
        text_format(&headers, "Lambda-Runtime-Aws-Request-Id: %s\r\n", v->id);
    if (!v->no_deadline)
        text_format(&headers, "Lambda-Runtime-Deadline-Ms: %lld\r\n",
                    unix_ms + (v->deadline_ms ? v->deadline_ms : 8000));
    if (!v->no_arn)
        text_puts(&headers, "Lambda-Runtime-Invoked-Function-Arn: "
                            "arn:aws:lambda:eu-west-1:123456789012:function:london-travel\r\n");
    if (!v->no_trace)
        text_puts(&headers, "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;"
                            "Parent=9a9197af755a6419;Sampled=1\r\n");
    if (v->invocation_id)
        text_format(&headers, "lambda-runtime-invocation-id: %s\r\n", v->invocation_id);
    world_reply a = v->how;
    a.status = 200;
    a.headers = headers.ptr;
    a.body = v->event;
    v->handed = 1;
    v->start = now_ns();
    conn_answer(c, &a);
    text_free(&headers);
}

/* Gives the current event, if it is still here, to a connection that waits for one. */
static void api_offer(world *w)
{
    for (int i = 0; i < W_CONNS; i++)
        if (w->current && !w->current->handed && w->conn[i].fd >= 0 && w->conn[i].next) {
            api_hand_over(w, &w->conn[i]);
            conn_flush(w, &w->conn[i]);
        }
}

/* A POST to /runtime/invocation/{id}/{what}. */
static void api_post(world *w, world_conn *c, world_request *q, const char *path)
{
    world_event *v = w->current;
    const char *what = strchr(path, '/');
    iz n = what ? what - path : 0;
    b32 response = what && !strcmp(what, "/response"), error = what && !strcmp(what, "/error");
    if (!response && !error) {
        conn_answer_json(c, 404, "404 page not found");
        return;
    }
    if (!v || !v->handed || v->outcome || n != (iz)strlen(v->id) ||
        strncmp(v->id, path, (size_t)n)) {
        conn_answer_json(c, 400,
                         "{\"errorMessage\":\"Invalid request ID\","
                         "\"errorType\":\"InvalidRequestID\"}\n");
        return;
    }
    v->outcome = response ? 'r' : 'e';
    v->ns = now_ns() - v->start;
    text_add(&v->path, q->path.ptr, q->path.len);
    text_add(&v->head, q->head.ptr, q->head.len);
    text_add(&v->body, q->body.ptr, q->body.len);
    world_reply a = v->answer;
    a.status = a.status ? a.status : 202;
    a.body = S("{\"status\":\"OK\"}\n");
    conn_answer(c, &a);
}

static void crowd_answer(world *w, world_conn *c, const world_request *q);

static void api_answer(world *w, world_conn *c, world_request *q)
{
    if (w->crowd) {
        crowd_answer(w, c, q);
        return;
    }
    iz n = (iz)strlen(w->api_prefix);
    const char *path = q->path.ptr, *base = "/2018-06-01/runtime/";
    b32 get = !strcmp(q->method, "GET");
    b32 ours = !strncmp(path, w->api_prefix, (size_t)n) && !strncmp(path + n, base, strlen(base));
    path += ours ? n + (iz)strlen(base) : 0;
    if (ours && get && !strcmp(path, "invocation/next")) {
        c->next = 1;
        w->nexts++;
        api_offer(w);
    } else if (ours && !get && !strncmp(path, "invocation/", 11)) {
        api_post(w, c, q, path + 11);
    } else if (ours && !get && !strcmp(path, "init/error")) {
        text_clear(&w->init_error);
        text_add(&w->init_error, q->body.ptr, q->body.len);
        conn_answer_json(c, 202, "{\"status\":\"OK\"}\n");
    } else {
        conn_answer_json(c, 404, "404 page not found");
    }
}

/* ---- the loop ---- */

/* A planned answer if there is one, else the stand-in's own. */
static void world_dispatch(world *w, world_conn *c, world_request *q)
{
    iz i = 0;
    while (i < w->plans &&
           (w->plan[i].listener != q->listener || !strstr(q->path.ptr, w->plan[i].path)))
        i++;
    if (!w->first_next && strstr(q->path.ptr, "invocation/next"))
        w->first_next = now_ns();
    if (i < w->plans) {
        world_reply a = w->plan[i].reply;
        w->plans--;
        memmove(&w->plan[i], &w->plan[i + 1], (size_t)(w->plans - i) * sizeof *w->plan);
        conn_answer(c, &a);
    } else if (q->listener == W_API) {
        api_answer(w, c, q);
    } else if (q->listener == W_TFL) {
        tfl_answer(w, c, q);
    } else if (q->listener == W_PREFS) {
        prefs_answer(w, c, q);
    } else {
        c->held = 1; /* an invoke: serve takes it in its turn */
    }
}

static void conn_read(world *w, world_conn *c)
{
    static char chunk[1 << 16];
    iz n = recv(c->fd, chunk, sizeof chunk, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_close(c, 0);
        return;
    }
    text_add(&c->in, chunk, n);
    world_request q;
    if (c->due || c->next || c->held || !conn_request(w, c, &q))
        return;
    world_inspect(w, &q);
    w->request = realloc(w->request, (size_t)(w->requests + 1) * sizeof q);
    if (!w->request)
        abort();
    w->request[w->requests++] = q;
    world_dispatch(w, c, &w->request[w->requests - 1]);
}

static void world_read_log(world *w)
{
    char chunk[4096];
    iz n = read(w->log_fd, chunk, sizeof chunk);
    if (n > 0) {
        text_add(&w->log, chunk, n);
        if (w->log_shown)
            fwrite(chunk, 1, (size_t)n, w->log_shown), fflush(w->log_shown);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(w->log_fd);
        w->log_fd = -1;
    }
}

/* Notices the end of the child. What it wrote before is read first. */
static void world_reap(world *w, int flags)
{
    int status;
    if (!w->pid || waitpid(w->pid, &status, flags) != w->pid)
        return;
    w->pid = 0;
    w->exit_status = status;
    for (iz before = -1; w->log_fd >= 0 && before != w->log.len;)
        before = w->log.len, world_read_log(w);
}

/* Ends the child, and no other process. */
static void world_kill(world *w)
{
    if (!w->pid)
        return;
    kill(w->pid, SIGKILL);
    world_reap(w, 0);
}

static void world_watch(world *w, struct pollfd *fds, i64 now, i64 *wake)
{
    for (int i = 0; i < W_LISTENERS; i++)
        fds[i] = (struct pollfd){.fd = w->listener[i], .events = POLLIN};
    fds[W_LISTENERS] = (struct pollfd){.fd = w->log_fd, .events = POLLIN};
    for (int i = 0; i < W_CONNS; i++) {
        world_conn *c = &w->conn[i];
        fds[W_LISTENERS + 1 + i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
        if (c->fd < 0 || !c->due)
            continue;
        if (c->due <= now)
            fds[W_LISTENERS + 1 + i].events |= POLLOUT;
        else if (c->due < *wake)
            *wake = c->due;
    }
}

static void world_serve(world *w, const struct pollfd *fds)
{
    for (int i = 0; i < W_LISTENERS; i++)
        if (fds[i].revents)
            world_accept(w, i);
    if (fds[W_LISTENERS].revents)
        world_read_log(w);
    for (int i = 0; i < W_CONNS; i++) {
        world_conn *c = &w->conn[i];
        short events = fds[W_LISTENERS + 1 + i].revents;
        if (c->fd >= 0 && c->fd == fds[W_LISTENERS + 1 + i].fd && events & ~POLLOUT)
            conn_read(w, c);
        if (c->fd >= 0 && c->due && c->due <= now_ns())
            conn_flush(w, c);
    }
    if (w->forget)
        world_forget(w);
    w->forget = 0;
    world_reap(w, WNOHANG);
}

/* Serves all these worlds for one turn, at most wait_ms. */
static void worlds_pump(world *const *worlds, iz n, int wait_ms)
{
    static struct pollfd fds[W_TOGETHER * W_SLOTS];
    i64 now = now_ns(), wake = now + wait_ms * 1000000LL;
    invariant(n <= W_TOGETHER);
    for (iz i = 0; i < n; i++)
        world_watch(worlds[i], fds + i * W_SLOTS, now, &wake);
    int ms = (int)((wake - now + 999999) / 1000000);
    if (poll(fds, (nfds_t)(n * W_SLOTS), ms) < 0)
        return; /* EINTR: the caller looks at its flags and comes again */
    for (iz i = 0; i < n; i++)
        world_serve(worlds[i], fds + i * W_SLOTS);
}

/* ---- invoking ---- */

static void world_done(world_event *v)
{
    text_free(&v->path);
    text_free(&v->head);
    text_free(&v->body);
    v->outcome = 0;
    v->handed = 0;
    v->ns = 0;
}

/* Makes v the current event; its earlier outcome, if it had one, is forgotten. */
static void world_begin(world *w, world_event *v)
{
    world_done(v);
    text_clear(&v->body);
    snprintf(v->made_id, sizeof v->made_id, "8f507dfc-5e1b-4c4a-9b1f-%012d", ++w->invocations);
    if (!v->id)
        v->id = v->made_id;
    w->current = v;
    api_offer(w);
}

/* Serves these worlds until each has its outcome, or ms have gone by. */
static void worlds_finish(world *const *worlds, iz n, int ms)
{
    i64 end = now_ns() + ms * 1000000LL;
    for (;;) {
        iz open = 0;
        for (iz i = 0; i < n; i++) {
            world_event *v = worlds[i]->current;
            if (!v->outcome && !worlds[i]->pid)
                v->outcome = 'x';
            if (!v->outcome && now_ns() > end)
                v->outcome = 't';
            open += !v->outcome;
        }
        if (!open)
            break;
        worlds_pump(worlds, n, 20);
    }
    for (iz i = 0; i < n; i++)
        worlds[i]->current = NULL;
}

/* One event to the bootstrap and its answer back, or the process's end, or ms gone by. */
static char world_invoke(world *w, world_event *v, int ms)
{
    world_begin(w, v);
    worlds_finish(&(world *){w}, 1, ms);
    if (v->id == v->made_id)
        v->id = NULL;
    return v->outcome;
}

/* Serves until the bootstrap waits for an event; false if it ended or ms went by. */
static b32 world_idle(world *w, int ms)
{
    for (i64 end = now_ns() + ms * 1000000LL; now_ns() < end && w->pid;) {
        for (int i = 0; i < W_CONNS; i++)
            if (w->conn[i].fd >= 0 && w->conn[i].next)
                return 1;
        worlds_pump(&w, 1, 20);
    }
    return 0;
}

/* Serves until the bootstrap ends by itself: its exit status, -1 for a signal, -2 if it lives. */
static int world_wait_exit(world *w, int ms)
{
    for (i64 end = now_ns() + ms * 1000000LL; now_ns() < end && w->pid;)
        worlds_pump(&w, 1, 10);
    if (w->pid)
        return -2;
    return WIFEXITED(w->exit_status) ? WEXITSTATUS(w->exit_status) : -1;
}

static void world_close(world *w)
{
    world_kill(w);
    world_forget(w);
    for (int i = 0; i < W_CONNS; i++)
        conn_close(&w->conn[i], 0);
    for (int i = 0; i < W_LISTENERS; i++)
        if (w->listener[i] >= 0)
            close(w->listener[i]);
    if (w->log_fd >= 0)
        close(w->log_fd);
    for (iz i = 0; i < w->env_count; i++)
        free(w->env[i]);
    text_free(&w->violations);
    text_free(&w->log);
    text_free(&w->init_error);
}

/* Resident memory of the child in bytes, as /proc/PID/statm has it. */
static iz world_resident(const world *w)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", w->pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static iz world_open_files(const world *w)
{
    char path[64];
    iz n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", w->pid);
    DIR *dir = opendir(path);
    for (struct dirent *d; dir && (d = readdir(dir));)
        n += d->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return n;
}

/* ---- Alexa's events ---- */

typedef struct {
    const char *type;       /* LaunchRequest, IntentRequest, ... */
    const char *intent;     /* for an IntentRequest */
    const char *spoken;     /* value of the slot LINE; NULL: the slot has none */
    const char *id, *name;  /* its resolution; id NULL: spoken did not match */
    const char *token;      /* access token; NULL: the account is not linked */
    const char *attributes; /* session attributes as JSON; NULL: none, a new session */
    const char *skill_id;   /* NULL: the world's */
} alexa_event;

/* The 60 characters again and again: ids and tokens of Alexa's length. */
static void text_opaque(textbuf *t, int n)
{
    for (; n > 0; n -= 60)
        text_add(t, "AGTIBXSLF3FIGIEHSUXQ5YFQZ7DVTC5OGVQDBSZZZ6B2MUM2TBF5MFWDL5CX",
                 n < 60 ? n : 60);
}

static void text_alexa_user(textbuf *t, const alexa_event *e)
{
    text_fill(t, "'application':{'applicationId':@},'user':{'userId':'amzn1.ask.account.",
              e->skill_id ? e->skill_id : world_skill_id);
    text_puts(t, "user-id-MARKER.");
    text_opaque(t, 190);
    text_fill(t, e->token ? "','accessToken':@}" : "'}", e->token);
}

static void text_alexa_context(textbuf *t, const alexa_event *e)
{
    text_fill(t, "'context':{'Viewports':[{'type':'APL','id':'main','shape':'RECTANGLE','dpi':213,"
                 "'presentationType':'STANDARD','canRotate':false,'configuration':{'current':{"
                 "'mode':'HUB','video':{'codecs':['H_264_42','H_264_41']},'size':{'type':"
                 "'DISCRETE','pixelWidth':1280,'pixelHeight':800}}}}],'Viewport':{'experiences':[{"
                 "'arcMinuteWidth':346,'arcMinuteHeight':216,'canRotate':false,'canResize':false}],"
                 "'mode':'HUB','shape':'RECTANGLE','pixelWidth':1280,'pixelHeight':800,'dpi':213,"
                 "'touch':['SINGLE'],'video':{'codecs':['H_264_42','H_264_41']}},'Extensions':{"
                 "'available':{'aplext:backstack:10':{}}},'System':{");
    text_alexa_user(t, e);
    text_fill(t, ",'device':{'deviceId':'amzn1.ask.device.device-id-MARKER.");
    text_opaque(t, 150);
    text_fill(t, "','supportedInterfaces':{'AudioPlayer':{},'Alexa.Presentation.APL':{'runtime':{"
                 "'maxVersion':'2024.3'}}}},'unit':{'unitId':'amzn1.ask.unit.unit-id-MARKER'},"
                 "'apiEndpoint':'https://api.eu.amazonalexa.com','apiAccessToken':'eyJ0eXAiOiJKV1Qi"
                 "LCJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.api-token-MARKER.");
    text_opaque(t, 700);
    text_fill(t, "'}},");
}

static void text_alexa_slot(textbuf *t, const alexa_event *e)
{
    text_fill(t, "'slots':{'LINE':{'name':'LINE',");
    if (e->spoken)
        text_fill(t,
                  "'value':@,'resolutions':{'resolutionsPerAuthority':[{'authority':'amzn1."
                  "er-authority.echo-sdk.#.LINE_NAME','status':{'code':'ER_SUCCESS_#MATCH'}",
                  e->spoken, world_skill_id, e->id ? "" : "NO_");
    if (e->spoken && e->id)
        text_fill(t, ",'values':[{'value':{'name':@,'id':@}}]", e->name, e->id);
    text_fill(t, "#'confirmationStatus':'NONE','source':'USER'}}", e->spoken ? "}]}," : "");
}

static void text_alexa_request(textbuf *t, const alexa_event *e)
{
    text_fill(t,
              "'request':{'type':@,'requestId':'amzn1.echo-api.request.3a5d2c1e-6f0b-4e6d-8a53-"
              "0c1f2b7e9d44','locale':'en-GB','timestamp':'",
              e->type);
    text_date(t, 0);
    text_puts(t, "\"");
    if (!strcmp(e->type, "IntentRequest")) {
        text_fill(t, ",'intent':{'name':@,'confirmationStatus':'NONE'", e->intent);
        if (!strcmp(e->intent, "StatusIntent"))
            text_puts(t, ","), text_alexa_slot(t, e);
        text_fill(t, "},'dialogState':'COMPLETED'");
    } else if (!strcmp(e->type, "SessionEndedRequest")) {
        text_fill(t, ",'reason':'ERROR','error':{'type':'INVALID_RESPONSE','message':'An exception "
                     "occurred while dispatching the request to the skill.'}");
    } else if (!strcmp(e->type, "System.ExceptionEncountered")) {
        text_fill(t, ",'error':{'type':'INVALID_RESPONSE','message':'Invalid SSML'},"
                     "'cause':{'requestId':'amzn1.echo-api.request.1'}");
    }
    text_puts(t, "}");
}

/* An event as Alexa sends it, about 3 KB of JSON. System.* requests have no session. */
static void event_make(textbuf *t, const alexa_event *e)
{
    text_clear(t);
    text_fill(t, "{'version':'1.0',");
    if (strncmp(e->type, "System.", 7)) {
        text_fill(t, "'session':{'new':#,'sessionId':'amzn1.echo-api.session.7e2f9a40-2b0f-4c55',",
                  e->attributes ? "false" : "true");
        if (e->attributes)
            text_fill(t, "'attributes':#,", e->attributes);
        text_alexa_user(t, e);
        text_puts(t, "},");
    }
    text_alexa_context(t, e);
    text_alexa_request(t, e);
    text_puts(t, "}");
}

/* ---- the voice model ----
 *
 * What Alexa must be told so that it sends this skill its events, as JSON for the developer
 * console or the ASK command line: the interaction model ("Interaction Model Schema") and the
 * skill manifest ("Skill Manifest Schema"). Intents, slot and lines are those of skill.c; the
 * phrases are here. A pattern stands for a phrase for each choice of its groups: (a|b|).
 */

#define VOICE_NAME "london travel" /* invocation name */
#define VOICE_TYPE "LINE_NAME"
#define VOICE_LINE "{" ALEXA_LINE "}"
#define VOICE_THE_LINE "the " VOICE_LINE "( line|)"

enum { VOICE_SAMPLE_MAX = 200 }; /* bytes of a phrase with its slot */

static const char *const voice_status_patterns[] = {
    /* as an answer to "which line", and behind "ask London Travel" */
    "(the |about the |for the |what about the |how about the |and the |check the |)" VOICE_LINE
    "( line|)",
    "(about|what about|how about) " VOICE_LINE,
    "(tell me|i'd like to know|i want to hear) about " VOICE_THE_LINE,
    "(what's the|what is the|tell me the|check the|for the|the) status of " VOICE_THE_LINE,
    VOICE_LINE "( line|) (status|delays|disruption|problems|news)",
    "(what's the latest|the latest|give me the latest|any news|give me an update) "
    "on " VOICE_THE_LINE,
    /* how it runs */
    "(how's|how is) " VOICE_THE_LINE "( doing| running| looking| today| this morning|)",
    "how's " VOICE_THE_LINE " (getting on|now|this evening|tonight)",
    "(how's|how is) " VOICE_LINE "( doing| running|)",
    "how " VOICE_THE_LINE " is( doing| running| looking|)",
    "how " VOICE_THE_LINE " is (doing|running) today",
    "tell me how " VOICE_THE_LINE " is( doing| running)",
    "how (things are|trains are running) on " VOICE_THE_LINE,
    "how are (things|the trains|trains running) on " VOICE_THE_LINE "( today|)",
    "is " VOICE_THE_LINE " (running|open|closed|delayed|suspended|okay|all right)",
    "is " VOICE_THE_LINE " (running|open|closed) (today|yet)",
    "is " VOICE_THE_LINE " (back to normal|running normally|running on time|running late)",
    "is " VOICE_LINE " (running|open|closed|delayed|okay)",
    "(if|whether) " VOICE_THE_LINE " is (running|open|delayed)",
    "is there a (good service|service) on " VOICE_THE_LINE,
    "are (trains|the trains) running on " VOICE_THE_LINE,
    /* what is wrong with it */
    "(are there any|any|are there) (delays|problems) on " VOICE_THE_LINE,
    "are there any delays on " VOICE_THE_LINE " (today|right now|this morning|this evening)",
    "(is there any|any) (disruption|trouble) on " VOICE_THE_LINE,
    "is there a (problem with|problem on|delay on) " VOICE_THE_LINE,
    "if there (are any delays|are any problems|is any disruption|are delays) on " VOICE_THE_LINE,
    "what's (wrong with|happening on|going on with|up with|the matter with) " VOICE_THE_LINE,
    "what is (wrong with|happening on) " VOICE_THE_LINE,
    "why is " VOICE_THE_LINE " (closed|delayed|suspended|so slow|running late)",
    /* whether to take it */
    "can i (take|get|use) " VOICE_THE_LINE "( today|)",
    "should i (take|avoid) " VOICE_THE_LINE,
};

static const char *const voice_disruption_patterns[] = {
    "(disruption|disruptions|delays|closures|travel news|the latest travel news)",
    "any (delays|disruption|closures|problems)( today| on the tube|)",
    "is there any (disruption|trouble)( today| on the tube| on the underground|)",
    "is there any disruption (right now|this morning|anywhere)",
    "are there any (delays|problems|closures)( today| on the tube| on the underground|)",
    "are there any delays (on the tube today|right now|this morning|this evening|anywhere)",
    "if there (are any delays|are any closures)( today| on the tube|)",
    "if there (are any problems|is any disruption)( today| on the tube|)",
    "whether there (are any delays|is any disruption)",
    "what's (disrupted|delayed|closed|suspended|not running)( today|)",
    "which lines are (closed|delayed|disrupted|suspended|not running)( today|)",
    "what lines are (closed|delayed|not running)",
    "(which|what) lines have (delays|problems)",
    "which lines should i avoid( today|)",
    "are any lines (closed|delayed|suspended|disrupted)( today|)",
    "are all (the |)lines running( normally|)",
    "is everything running( normally| on time|)( today|)",
    "is there a good service on (all lines|every line|the tube|the underground)",
    "(how's|how is) the (tube|underground)( doing| running| looking| today|)",
    "how the (tube|underground) is( doing| running|)",
    "is the (tube|underground) (running|running normally|all right|okay)( today|)",
    "what's (happening|going on) with the tube( today|)",
    "what's the tube like( today| this morning| this evening)",
    "what's the status of the (tube|underground)",
    "tube (status|delays|disruption|problems|closures|news|update)",
    "(tell me about|about|about any|check for|for) (disruption|delays|closures)",
    "(about|check) the (tube|underground)",
    "(tell me|give me|list) the (delays|closures)",
};

static const char *const voice_commute_patterns[] = {
    "(my|about my|for my|check my|check on my|tell me about my|what about my|how about my) commute",
    "(my|about my) commute (today|this morning|this evening)",
    "(how's|how is) my commute( looking| doing| today| this morning| this evening| tonight|)",
    "how my commute (is|looks|is looking)( today|)",
    "(what's|what is) my commute like( today|)",
    "what's my commute looking like( today|)",
    "will my commute be (okay|all right|delayed|affected)",
    "is my commute (okay|all right|delayed|affected|disrupted)( today|)",
    "if my commute is (okay|delayed|affected)",
    "are there any (delays|problems) on my (commute|way to work|way home|lines)",
    "is there any (disruption|trouble) on my (commute|way to work|way home|lines)",
    "if there (are any delays|is any disruption) on my (commute|lines)",
    "what's (happening|going on) with my (commute|lines)",
    "how are my (lines|favourite lines|usual lines)( doing| running| looking| today|)",
    "how my (lines|favourite lines) are( doing| running|)",
    "(my|about my|check my|tell me about my) (lines|favourite lines)",
    "(what's the|the|for the) status of my (commute|lines|favourite lines)",
    "are my (lines|favourite lines) (running|all right|okay|delayed)",
    "how's my (journey to work|journey home|route to work|route home)( looking| today|)",
};

/* The phrases of a pattern, each behind `head` and on a line of its own. */
static void voice_expand(textbuf *t, const char *head, str pattern)
{
    char next[VOICE_SAMPLE_MAX];
    str rest = pattern, plain = str_cut(&rest, '('), group = str_cut(&rest, ')');
    if (plain.len == pattern.len) {
        text_format(t, "%s%.*s\n", head, (int)plain.len, plain.ptr);
        return;
    }
    for (b32 more = 1; more;) {
        more = str_find(group, '|') >= 0;
        str choice = str_cut(&group, '|');
        int n = snprintf(next, sizeof next, "%s%.*s%.*s", head, (int)plain.len, plain.ptr,
                         (int)choice.len, choice.ptr);
        if (n >= (int)sizeof next)
            abort();
        voice_expand(t, next, rest);
    }
}

static void voice_expand_all(textbuf *t, const char *const *patterns, iz count)
{
    for (iz i = 0; i < count; i++)
        voice_expand(t, "", str_of_array(patterns[i], 1000));
}

/* The sample phrases of an intent by its number in skill.c, one a line. Alexa's own intents come
 * with theirs. */
static void voice_samples(textbuf *t, i32 intent)
{
    text_clear(t);
    if (intent == INTENT_STATUS)
        voice_expand_all(t, voice_status_patterns, countof(voice_status_patterns));
    else if (intent == INTENT_DISRUPTION)
        voice_expand_all(t, voice_disruption_patterns, countof(voice_disruption_patterns));
    else if (intent == INTENT_COMMUTE)
        voice_expand_all(t, voice_commute_patterns, countof(voice_commute_patterns));
}

/* A name as Alexa takes it, ended by '|': "&" in words, and letters that are spoken one by one
 * with a full stop each ("d. l. r.", as "Custom slot type values" wants initialisms). */
static void voice_put_name(textbuf *t, str name)
{
    while (name.len) {
        str word = str_cut(&name, ' ');
        if (str_is(word, "&"))
            word = S("and");
        text_format(t, "%.*s%s%s", (int)word.len, word.ptr, word.len == 1 ? "." : "",
                    name.len ? " " : "|");
    }
}

/* Has the row of names one that only the case tells from the last? Then the last one goes. */
static void voice_drop_repeated(textbuf *t, iz row)
{
    iz last = t->len - 1;
    while (last > row && t->ptr[last - 1] != '|')
        last--;
    str names = str_span(text_str(t), row, last), name = str_span(text_str(t), last, t->len - 1);
    while (names.len)
        if (str_eq_nocase(str_cut(&names, '|'), name)) {
            t->len = last;
            return;
        }
}

/* The values of the slot's type, one a line, each part ended by '|': id, name, synonyms. An id
 * that is a word of its own ("elizabeth") is a synonym, too. */
static void voice_lines(textbuf *t)
{
    str rows = line_rows();
    text_clear(t);
    while (rows.len) {
        str row = str_cut(&rows, '\n'), id = str_cut(&row, '|');
        text_format(t, "%.*s|", (int)id.len, id.ptr);
        iz names = t->len;
        voice_put_name(t, str_cut(&row, '|'));
        for (str name = str_find(id, '-') < 0 ? id : str_cut(&row, '|'); name.len;
             name = str_cut(&row, '|')) {
            voice_put_name(t, name);
            voice_drop_repeated(t, names);
        }
        text_puts(t, "\n");
    }
}

/* The texts of a list, each ended by `end`, as a JSON array. */
static void voice_put_list(textbuf *t, str list, u8 end)
{
    const char *comma = "";
    text_puts(t, "[");
    for (; list.len; comma = ",") {
        str text = str_cut(&list, end);
        text_format(t, "%s\"%.*s\"", comma, (int)text.len, text.ptr);
    }
    text_puts(t, "]");
}

/* Compact JSON on lines of its own, two blanks a level; empty arrays and objects stay together. */
static void text_pretty(textbuf *t, str compact)
{
    int depth = 0;
    b32 quoted = 0, escaped = 0;
    for (iz i = 0; i < compact.len; i++) {
        char c = (char)compact.ptr[i], before = i ? (char)compact.ptr[i - 1] : 0;
        b32 closes = !quoted && (c == '}' || c == ']'), opened = before == '{' || before == '[';
        depth -= closes;
        if (!quoted && i && (closes ? !opened : opened || before == ','))
            text_format(t, "\n%*s", 2 * depth, "");
        text_add(t, &c, 1);
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        if (!quoted && c == ':')
            text_puts(t, " ");
        depth += !quoted && (c == '{' || c == '[');
    }
    text_puts(t, "\n");
}

static void voice_put_types(textbuf *t)
{
    textbuf lines = {0};
    voice_lines(&lines);
    text_fill(t, "[{'name':@,'values':[", VOICE_TYPE);
    for (str rows = text_str(&lines); rows.len;) {
        str row = str_cut(&rows, '\n'), id = str_cut(&row, '|'), name = str_cut(&row, '|');
        text_format(t, "{\"id\":\"%.*s\",\"name\":{\"value\":\"%.*s\",\"synonyms\":", (int)id.len,
                    id.ptr, (int)name.len, name.ptr);
        voice_put_list(t, row, '|');
        text_puts(t, rows.len ? "}}," : "}}]}]");
    }
    text_free(&lines);
}

static void voice_model(textbuf *t)
{
    textbuf samples = {0}, all = {0};
    const char *names = intent_names();
    str rest = {(const u8 *)names, (iz)strlen(names)};
    text_fill(&all, "{'interactionModel':{'languageModel':{'invocationName':@,'intents':[",
              VOICE_NAME);
    for (i32 i = 0; rest.len; i++) {
        str name = str_cut(&rest, ' ');
        text_format(&all, "{\"name\":\"%.*s\",", (int)name.len, name.ptr);
        if (i == INTENT_STATUS)
            text_fill(&all, "'slots':[{'name':@,'type':@}],", ALEXA_LINE, VOICE_TYPE);
        voice_samples(&samples, i);
        text_fill(&all, "'samples':");
        voice_put_list(&all, text_str(&samples), '\n');
        text_puts(&all, rest.len ? "}," : "}],");
    }
    text_fill(&all, "'types':");
    voice_put_types(&all);
    text_puts(&all, "}}}");
    text_clear(t);
    text_pretty(t, text_str(&all));
    text_free(&samples), text_free(&all);
}

/* Where Alexa sends its events until `model manifest ARN` names the function: nobody's. */
#define VOICE_NO_ARN "arn:aws:lambda:eu-west-1:000000000000:function:london-travel"

static const char voice_description[] =
    "London Travel tells you how trains are running on the Tube, London Overground, the DLR and "
    "the Elizabeth line, from TfL's own reports.\n\nAsk about one line, ask for everything that "
    "is disrupted, or link an account and ask about the lines of your commute.";

static const char voice_testing[] =
    "Without a linked account: ask how the Victoria line is running, or if there are any delays "
    "on the tube. To try the commute, link an account for which favourite lines are chosen, then "
    "ask about my commute; without one the answer is a card for linking.";

/* No icons: only a skill that is to be published needs them. The two addresses are to be replaced,
 * too, as account linking asks for them. */
static void voice_manifest(textbuf *t, const char *arn)
{
    textbuf all = {0};
    text_fill(&all,
              "{'manifest':{'manifestVersion':'1.0','publishingInformation':{'locales':{'en-GB':{"
              "'name':'London Travel','summary':@,'description':@,'examplePhrases':["
              "'Alexa, ask London Travel how the Victoria line is running',"
              "'Alexa, ask London Travel if there are any delays on the tube',"
              "'Alexa, ask London Travel about my commute'],"
              "'keywords':['london','tube','underground','overground','dlr','elizabeth line',"
              "'tfl','trains','delays','commute']}},'isAvailableWorldwide':false,"
              "'distributionCountries':['GB'],'distributionMode':'PUBLIC',"
              "'category':'PUBLIC_TRANSPORTATION','testingInstructions':@},",
              "How trains are running on the Tube, London Overground, the DLR and the Elizabeth "
              "line.",
              voice_description, voice_testing);
    text_fill(&all,
              "'apis':{'custom':{'endpoint':{'uri':@},'interfaces':[]}},'permissions':[],"
              "'privacyAndCompliance':{'allowsPurchases':false,'usesPersonalInfo':true,"
              "'isChildDirected':false,'isExportCompliant':true,'containsAds':false,'locales':{"
              "'en-GB':{'privacyPolicyUrl':'https://example.com/privacy',"
              "'termsOfUseUrl':'https://example.com/terms'}}}}}",
              arn);
    text_clear(t);
    text_pretty(t, text_str(&all));
    text_free(&all);
}

/* arn:aws:lambda:REGION:ACCOUNT:function:NAME, with or without :ALIAS. */
static b32 voice_arn_good(const char *arn)
{
    char region[32], account[16], name[160];
    int n = -1;
    sscanf(arn, "arn:aws:lambda:%31[a-z0-9-]:%15[0-9]:function:%159[A-Za-z0-9_:-]%n", region,
           account, name, &n);
    return n >= 0 && !arn[n] && strlen(account) == 12;
}

/* `skill_test model` and `skill_test model manifest [ARN]`. */
static int command_model(int count, char **args)
{
    textbuf t = {0};
    const char *arn = count > 1 ? args[1] : VOICE_NO_ARN;
    if (count > 2 || (count && strcmp(args[0], "manifest"))) {
        fprintf(stderr, "usage: skill_test model [manifest [ARN]]\n");
        return 2;
    }
    if (!voice_arn_good(arn)) {
        fprintf(stderr, "model: not a Lambda function's ARN: %s\n", arn);
        return 2;
    }
    if (count)
        voice_manifest(&t, arn);
    else
        voice_model(&t);
    fputs(t.ptr, stdout);
    text_free(&t);
    return 0;
}

/* ---- the voice model backwards: what Alexa would make of a text ---- */

/* Words apart by one blank, in lower case, without stops and apostrophes; slots stay in braces. */
static void voice_fold(textbuf *t, str text)
{
    text_clear(t);
    for (iz i = 0; i < text.len; i++) {
        u8 c = to_lower(text.ptr[i]);
        b32 blank = !t->len || t->ptr[t->len - 1] == ' ';
        if (c == '&')
            text_puts(t, blank ? "and " : " and ");
        else if (is_word(c) || is_one_of(c, "{}_"))
            text_add(t, &c, 1);
        else if (!is_one_of(c, ".'") && !blank)
            text_puts(t, " ");
    }
    if (t->len && t->ptr[t->len - 1] == ' ')
        t->ptr[--t->len] = 0;
}

/* What stands behind these words; all of it if they do not stand in front. */
static str voice_behind(str said, const char *words)
{
    iz n = (iz)strlen(words);
    b32 there =
        str_starts(said, (str){(const u8 *)words, n}) && (said.len == n || said.ptr[n] == ' ');
    return there ? str_trim(str_from(said, n)) : said;
}

/* The request in a text that may begin with "Alexa, ask London Travel". */
static str voice_request(str said)
{
    static const char *const verbs[] = {"open", "launch", "start", "ask", "tell", "talk to"};
    said = voice_behind(said, "alexa");
    for (iz i = 0; i < countof(verbs); i++) {
        str behind = voice_behind(said, verbs[i]), request = voice_behind(behind, VOICE_NAME);
        if (behind.len < said.len && (!behind.len || request.len < behind.len))
            return request;
    }
    return str_is(said, VOICE_NAME) ? S("") : said;
}

typedef struct {
    i32 intent; /* by its number in skill.c; -1: no phrase fits */
    iz weight;  /* bytes of the phrase without its slot */
    str slot;
    b32 known;    /* no slot, or one of the values, */
    str id, name; /* of which these are the id and the name */
} voice_match;

/* The name of an intent by its number in skill.c. */
static void voice_put_intent(char *to, size_t cap, i32 intent)
{
    str names = str_of_array(intent_names(), URL_MAX), name = str_cut(&names, ' ');
    while (intent-- > 0)
        name = str_cut(&names, ' ');
    snprintf(to, cap, "%.*s", (int)name.len, name.ptr);
}

/* Is this the phrase, with anything for its slot? Both are folded. */
static b32 voice_fits(str said, str phrase, voice_match *m)
{
    str tail = phrase, head = str_cut(&tail, '{');
    b32 slot = head.len < phrase.len;
    str_cut(&tail, '}');
    m->weight = head.len + tail.len;
    m->known = !slot;
    if (!slot)
        return str_eq(said, phrase);
    if (said.len <= m->weight || !str_starts(said, head) ||
        !str_eq(str_from(said, said.len - tail.len), tail))
        return 0;
    m->slot = str_span(said, head.len, said.len - tail.len);
    return 1;
}

/* Looks the slot up among the values' names and synonyms, as Alexa's entity resolution does. */
static void voice_resolve(str lines, voice_match *m)
{
    textbuf form = {0};
    while (lines.len && !m->known) {
        str row = str_cut(&lines, '\n'), id = str_cut(&row, '|'), name = row;
        while (row.len && !m->known) {
            voice_fold(&form, str_cut(&row, '|'));
            m->known = str_eq(text_str(&form), m->slot);
        }
        m->id = id;
        m->name = str_cut(&name, '|');
    }
    text_free(&form);
}

/* The longest name of a line among the words of what was said, if there is one. */
static void voice_spot(str said, str lines, voice_match *m)
{
    textbuf form = {0};
    while (lines.len) {
        str row = str_cut(&lines, '\n'), id = str_cut(&row, '|'), first = row;
        str name = str_cut(&first, '|');
        while (row.len) {
            voice_fold(&form, str_cut(&row, '|'));
            for (iz i = 0; i + form.len <= said.len; i++) {
                iz end = i + form.len;
                if ((i && said.ptr[i - 1] != ' ') || (end < said.len && said.ptr[end] != ' ') ||
                    memcmp(said.ptr + i, form.ptr, (size_t)form.len) ||
                    (m->known && form.len <= m->slot.len))
                    continue;
                *m = (voice_match){INTENT_STATUS, 0, str_span(said, i, end), 1, id, name};
            }
        }
    }
    text_free(&form);
}

/* The phrase that fits best: one whose slot is a value before any other, then the longest. */
static voice_match voice_find(str said, str lines)
{
    textbuf samples = {0}, form = {0};
    voice_match best = {.intent = -1};
    for (i32 intent = INTENT_STATUS; intent <= INTENT_COMMUTE; intent++) {
        voice_samples(&samples, intent);
        for (str rest = text_str(&samples); rest.len;) {
            voice_match m = {.intent = intent};
            voice_fold(&form, str_cut(&rest, '\n'));
            if (!voice_fits(said, text_str(&form), &m))
                continue;
            voice_resolve(lines, &m);
            if (best.intent < 0 || m.known > best.known ||
                (m.known == best.known && m.weight > best.weight))
                best = m;
        }
    }
    text_free(&samples), text_free(&form);
    return best;
}

/* ---- run: a conversation ---- */

/* Speech as it is heard: paragraphs on lines of their own, no tags, entities decoded. */
static void text_heard(textbuf *t, const char *ssml)
{
    static const struct {
        const char *written, *heard;
    } rows[] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}};
    while (*ssml) {
        iz i = 0;
        while (i < countof(rows) && strncmp(ssml, rows[i].written, strlen(rows[i].written)))
            i++;
        const char *end = *ssml == '<' ? strchr(ssml, '>') : NULL;
        if (i < countof(rows)) {
            text_puts(t, rows[i].heard);
            ssml += strlen(rows[i].written);
        } else if (end) {
            if (!strncmp(ssml, "<p>", 3) && t->len)
                text_puts(t, "\n");
            ssml = end + 1;
        } else {
            text_add(t, ssml++, 1);
        }
    }
}

/* Prints text under a label in the margin, wrapped at 92 columns. */
static void print_wrapped(const char *label, const char *s)
{
    const b32 tty = isatty(1) == 1, loud = tty && !strcmp(label, "Alexa");
    iz at_column = 0;
    printf("%s%-8s%s%s", tty ? "\033[2m" : "", label, tty ? "\033[0m" : "", loud ? "\033[1m" : "");
    while (*s) {
        iz bytes = (iz)strcspn(s, " \n"), width = 0;
        for (iz i = 0; i < bytes; i++)
            width += ((u8)s[i] & 0xc0) != 0x80;
        if (at_column && at_column + 1 + width > 84)
            at_column = 0, printf("\n        ");
        printf("%s%.*s", at_column ? " " : "", (int)bytes, s);
        at_column += width + (at_column > 0);
        s += bytes;
        if (*s == '\n')
            at_column = 0, printf("\n        ");
        s += *s ? 1 : 0;
    }
    printf("%s\n", loud ? "\033[0m" : "");
}

typedef struct {
    const char *said;
    alexa_event event;
    b32 quiet; /* it need not be answered with speech */
} run_turn;

/* Prints what came back for one turn. All of it is read from what the bootstrap posted. */
static b32 run_print(const run_turn *turn, const world_event *v)
{
    textbuf a = {0}, heard = {0};
    str posted = text_str(&v->body);
    char time[96];
    b32 good = v->outcome == 'r' && peek_json(posted, "version", &a) == 's';
    print_wrapped("You", turn->said);
    if (good && peek_json(posted, "response.outputSpeech.ssml", &a) == 's')
        text_heard(&heard, a.ptr);
    good &= heard.len || turn->quiet;
    if (v->outcome == 'e')
        print_wrapped("error", v->body.ptr);
    else if (v->outcome != 'r')
        print_wrapped("error", v->outcome == 'x' ? "the bootstrap ended" : "no answer in time");
    else
        print_wrapped("Alexa", heard.len ? heard.ptr : good ? "(says nothing)" : v->body.ptr);
    if (peek_json(posted, "response.card.type", &a) == 's' && !strcmp(a.ptr, "LinkAccount"))
        print_wrapped("Card", "(link account card)");
    else if (peek_json(posted, "response.card.title", &a) == 's')
        print_wrapped("Card", a.ptr);
    if (peek_json(posted, "response.card.text", &a) == 's')
        print_wrapped("", a.ptr);
    b32 open = peek_json(posted, "response.shouldEndSession", &a) == 'f';
    snprintf(time, sizeof time, "%.2f ms%s", (double)v->ns / 1e6,
             open ? ", and the microphone stays open" : "");
    print_wrapped("Time", time);
    printf("\n");
    text_free(&a), text_free(&heard);
    return good;
}

/* The attributes of the session that an answer leaves open; else nothing. */
static void run_session(textbuf *session, str posted)
{
    textbuf a = {0};
    b32 open = peek_json(posted, "response.shouldEndSession", &a) == 'f';
    text_clear(session);
    if (open && peek_json(posted, "sessionAttributes", &a) != '{')
        text_puts(session, "{}");
    else if (open)
        text_add(session, a.ptr, a.len);
    text_free(&a);
}

/* One turn. Attributes of a session that was left open go on to the next turn. */
static b32 run_play(world *w, const run_turn *turn, textbuf *session)
{
    textbuf sent = {0};
    alexa_event e = turn->event;
    if (session->len)
        e.attributes = session->ptr;
    event_make(&sent, &e);
    world_event v = {.event = text_str(&sent)};
    world_invoke(w, &v, 9000);
    b32 good = run_print(turn, &v);
    run_session(session, text_str(&v.body));
    world_done(&v);
    text_free(&sent);
    return good;
}

/* What SAY asks for, as Alexa would have understood it: by the phrases of the model, else by a line
 * or a word that tells the intent, or, as a last resort, as the name of a line. The texts live
 * until the next call. */
static run_turn run_say(const char *say)
{
    static const struct {
        const char *word, *intent;
    } rows[] = {
        {"commute", "CommuteIntent"},      {"disruption", "DisruptionIntent"},
        {"help", "AMAZON.HelpIntent"},     {"stop", "AMAZON.StopIntent"},
        {"cancel", "AMAZON.CancelIntent"}, {"repeat", "AMAZON.RepeatIntent"},
    };
    static textbuf said, lines;
    static char intent[64], spoken[400], id[32], name[32];
    voice_fold(&said, (str){(const u8 *)say, (iz)strlen(say)});
    voice_lines(&lines);
    str request = voice_request(text_str(&said));
    voice_match m = voice_find(request, text_str(&lines));
    if (!m.known)
        voice_spot(request, text_str(&lines), &m);
    run_turn turn = {say, {.type = "IntentRequest", .intent = intent}, 0};
    voice_put_intent(intent, sizeof intent, m.intent);
    for (iz i = 0; i < countof(rows) && !m.known; i++)
        if (strcasestr(say, rows[i].word))
            turn.event.intent = rows[i].intent;
    if (m.slot.len) {
        snprintf(spoken, sizeof spoken, "%.*s", (int)m.slot.len, m.slot.ptr);
        turn.event.spoken = spoken;
    }
    if (m.slot.len && m.known) {
        snprintf(id, sizeof id, "%.*s", (int)m.id.len, m.id.ptr);
        snprintf(name, sizeof name, "%.*s", (int)m.name.len, m.name.ptr);
        turn.event.id = id, turn.event.name = name;
    }
    if (!request.len)
        turn.event.type = "LaunchRequest";
    turn.event.token = strcasestr(turn.event.intent, "commute") ? world_token : NULL;
    turn.quiet = !strcmp(turn.event.intent, "AMAZON.StopIntent") ||
                 !strcmp(turn.event.intent, "AMAZON.CancelIntent");
    return turn;
}

static void run_figures(world *w)
{
    char figure[160];
    snprintf(figure, sizeof figure, "%lld us from the fork to its first GET .../next",
             (w->first_next - w->started) / 1000);
    print_wrapped("Start", figure);
    world_idle(w, 1000);
    snprintf(figure, sizeof figure, "%td kB resident, %td open files", world_resident(w) / 1024,
             world_open_files(w));
    print_wrapped("Process", figure);
}

#define RUN_STATUS(text, slot, line_id, line_name) \
    {                                              \
        text,                                      \
            {.type = "IntentRequest",              \
             .intent = "StatusIntent",             \
             .spoken = slot,                       \
             .id = line_id,                        \
             .name = line_name},                   \
            0                                      \
    }
#define RUN_INTENT(text, intent_name, access_token)                                      \
    {                                                                                    \
        text, {.type = "IntentRequest", .intent = intent_name, .token = access_token}, 0 \
    }

/* `skill_test run`: plays a conversation with the real bootstrap, all the rest embedded. With SAY
 * in the environment, that one question. Returns the exit status: 1 if a turn failed. */
static int command_run(void)
{
    static const run_turn turns[] = {
        {"Alexa, open London Travel", {.type = "LaunchRequest"}, 0},
        RUN_STATUS("the Victoria line", "victoria", "victoria", "Victoria"),
        RUN_STATUS("Alexa, ask London Travel about the Northern line", "northern", "northern",
                   "Northern"),
        RUN_STATUS("Alexa, ask London Travel about Crossrail", "crossrail", NULL, NULL),
        RUN_INTENT("Alexa, ask London Travel if there is any disruption", "DisruptionIntent", NULL),
        RUN_INTENT("Alexa, ask London Travel about my commute", "CommuteIntent", world_token),
        RUN_INTENT("Alexa, ask London Travel about my commute (account not linked)",
                   "CommuteIntent", NULL),
        RUN_INTENT("Alexa, ask London Travel for help", "AMAZON.HelpIntent", NULL),
        RUN_STATUS("the Jabberwocky line", "jabberwocky", NULL, NULL),
        {"stop", {.type = "IntentRequest", .intent = "AMAZON.StopIntent"}, 1},
    };
    const char *say = getenv("SAY");
    world w;
    textbuf session = {0};
    b32 good = 1;
    world_open(&w);
    world_start(&w);
    if (say && *say) {
        run_turn turn = run_say(say);
        good = run_play(&w, &turn, &session);
    } else {
        for (iz i = 0; i < countof(turns) && (!i || w.pid); i++)
            good &= run_play(&w, &turns[i], &session);
    }
    if (w.pid)
        run_figures(&w);
    if (!good || !w.pid || w.violations.len)
        fprintf(stderr, "%s%s", w.violations.ptr, w.log.ptr);
    good &= w.pid && !w.violations.len;
    world_close(&w);
    text_free(&session);
    return !good;
}

/* ---- serve: the local Lambda that stays up ----
 *
 * What it prints is what CloudWatch shows of a function: START, what the function writes, END and
 * REPORT in today's form, where a Status in REPORT tells of a time-out or a crash and no sentence
 * stands beside it ("new style" in AWS's "Understanding the Lambda execution environment
 * lifecycle"); with AWS_LAMBDA_LOG_FORMAT=JSON the same as platform.* events of the Telemetry API.
 *
 * Duration goes from the invocation to the GET .../next behind its answer; the caller has the
 * answer before. Init is billed, as always for a custom runtime and since August 2025 for all:
 * Billed Duration is Init Duration and Duration together, rounded up to a ms, as in AWS's examples.
 * A bootstrap that hung or died is started anew by the next invocation, within its time: such an
 * init is part of Duration and has no figure of its own, as in Lambda. */

enum {
    SERVE_SECONDS = 10,      /* the time-out: more than the 7 s that the skill takes at most */
    SERVE_SECONDS_MAX = 900, /* Lambda's own limit */
    SERVE_INIT_MS = 10000,   /* Lambda's: "The Init phase is limited to 10 seconds" */
    SERVE_EVENT_MAX = 6 * 1024 * 1024, /* of a synchronous invocation */
    SERVE_ASKS = 64,                   /* --event and --say of one command */
};

typedef struct {
    world w;
    int seconds, memory_mb;
    b32 as_json; /* the platform's own lines */
    i64 init_ns; /* of an init that no REPORT has told of; 0: there is none */
    iz peak_kb;  /* as last seen of the present bootstrap */
    char id[37]; /* of the present request: a UUID of version 4 */
} local_lambda;

static volatile sig_atomic_t serve_stop;

static void serve_signal(int number)
{
    (void)number;
    serve_stop = 1;
}

/* VmHWM of proc(5). */
static iz serve_peak_of(int pid)
{
    char path[64], row[128];
    long kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "re");
    while (f && !kb && fgets(row, sizeof row, f))
        sscanf(row, "VmHWM: %ld kB", &kb);
    if (f)
        fclose(f);
    return kb;
}

/* Notes the most memory that the bootstrap and its workers, if it has any, have had so far. */
static void serve_look(local_lambda *s)
{
    char path[64];
    int pid = s->w.pid;
    if (!pid)
        return;
    iz kb = serve_peak_of(pid);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%d", &pid) == 1)
        kb += serve_peak_of(pid);
    if (f)
        fclose(f);
    s->peak_kb = kb > s->peak_kb ? kb : s->peak_kb;
}

/* Ends the bootstrap and what it started: it leads a process group of its own. */
static void serve_kill(world *w)
{
    if (w->pid)
        kill(-w->pid, SIGKILL); /* not waited for yet, so the number is still its own */
    world_kill(w);
}

/* One turn, of at most 50 ms, up to a point in time. */
static void serve_turn(local_lambda *s, i64 end)
{
    i64 start = now_ns(), left = (end - start) / 1000000 + 1;
    worlds_pump(&(world *){&s->w}, 1, left < 0 ? 0 : left < 50 ? (int)left : 50);
    if (now_ns() - start > 10000000) /* it waits: a look costs the invocation no time */
        serve_look(s);
}

/* ---- its lines ---- */

/* Writes a line, behind all that the function has written. Frees the text. */
static void serve_say(local_lambda *s, textbuf *t)
{
    world *w = &s->w;
    iz before = -1;
    for (int i = 0; i < 1000 && w->log_fd >= 0 && before != w->log.len; i++)
        before = w->log.len, world_read_log(w);
    if (w->log.len && w->log.ptr[w->log.len - 1] != '\n')
        fputc('\n', w->log_shown);
    text_clear(&w->log);
    fprintf(w->log_shown, "%s\n", t->ptr);
    fflush(w->log_shown);
    text_free(t);
}

/* An event of the Telemetry API, up to the first member of its record. */
static void text_platform(textbuf *t, const char *type)
{
    struct timespec now;
    struct tm tm;
    char date[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    text_format(t, "{\"time\":\"%s.%03ldZ\",\"type\":\"platform.%s\",\"record\":{", date,
                now.tv_nsec / 1000000, type);
}

/* Lambda prints hundredths of a ms. */
static i64 serve_hundredths(i64 ns)
{
    return (ns + 5000) / 10000;
}

static void text_ms(textbuf *t, const char *before, i64 ns, const char *behind)
{
    i64 n = serve_hundredths(ns);
    text_format(t, "%s%lld.%02lld%s", before, n / 100, n % 100, behind);
}

typedef struct {
    const char *id;
    i64 ns, init_ns; /* init_ns 0: none to tell of */
    int memory_mb, peak_mb;
    char outcome; /* r(esponse), e(rror), x (the process ended), t(ime-out) */
} serve_figures;

static void text_report_json(textbuf *t, const serve_figures *f, i64 billed)
{
    text_platform(t, "report");
    text_fill(t, "'requestId':@,'metrics':{", f->id);
    text_ms(t, "\"durationMs\":", f->ns, ",");
    text_format(t, "\"billedDurationMs\":%lld,\"memorySizeMB\":%d,\"maxMemoryUsedMB\":%d", billed,
                f->memory_mb, f->peak_mb);
    if (f->init_ns)
        text_ms(t, ",\"initDurationMs\":", f->init_ns, "");
    text_fill(t, "},'status':@#}}",
              f->outcome == 'r'   ? "success"
              : f->outcome == 't' ? "timeout"
                                  : "error",
              f->outcome == 'x' ? ",\"errorType\":\"Runtime.ExitError\"" : "");
}

/* The line that ends an invocation. An error that the function itself reported leaves no mark in
 * the plain form. */
static void text_report(textbuf *t, b32 as_json, const serve_figures *f)
{
    i64 billed = (serve_hundredths(f->ns) + serve_hundredths(f->init_ns) + 99) / 100;
    billed += !billed;
    if (as_json) {
        text_report_json(t, f, billed);
        return;
    }
    text_format(t, "REPORT RequestId: %s\t", f->id);
    text_ms(t, "Duration: ", f->ns, " ms\t");
    text_format(t, "Billed Duration: %lld ms\tMemory Size: %d MB\tMax Memory Used: %d MB\t", billed,
                f->memory_mb, f->peak_mb);
    if (f->init_ns)
        text_ms(t, "Init Duration: ", f->init_ns, " ms\t");
    text_puts(t, f->outcome == 't'   ? "Status: timeout"
                 : f->outcome == 'x' ? "Status: error\tError Type: Runtime.ExitError"
                                     : "");
}

/* An init that did not end with a GET .../next: Lambda tells of no other. */
static void serve_say_init(local_lambda *s, const char *phase, i64 ns, char outcome)
{
    const char *status = outcome == 't' ? "timeout" : "error";
    textbuf t = {0};
    if (s->as_json) {
        text_platform(&t, "initReport");
        text_fill(&t, "'initializationType':'on-demand','phase':@,'status':@,#", phase, status,
                  outcome == 't' ? "" : "\"errorType\":\"Runtime.ExitError\",");
        text_ms(&t, "\"metrics\":{\"durationMs\":", ns, "}}}");
    } else {
        text_ms(&t, "INIT_REPORT Init Duration: ", ns, " ms");
        text_format(&t, "\tPhase: %s\tStatus: %s%s", phase, status,
                    outcome == 't' ? "" : "\tError Type: Runtime.ExitError");
    }
    serve_say(s, &t);
}

static void serve_say_start(local_lambda *s, const char *id)
{
    textbuf t = {0};
    if (s->as_json)
        text_platform(&t, "start"), text_fill(&t, "'requestId':@,'version':'$LATEST'}}", id);
    else
        text_format(&t, "START RequestId: %s Version: $LATEST", id);
    serve_say(s, &t);
}

static void serve_say_end(local_lambda *s, const serve_figures *f)
{
    textbuf t = {0};
    if (!s->as_json) {
        text_format(&t, "END RequestId: %s", f->id);
        serve_say(s, &t);
    }
    text_report(&t, s->as_json, f);
    serve_say(s, &t);
}

/* ---- one invocation ---- */

/* RFC 9562 section 5.4 */
static void serve_make_id(char id[static 37])
{
    u8 b[16] = {0};
    iz at = 0;
    if (getrandom(b, sizeof b, 0) != sizeof b)
        abort();
    b[6] = (u8)(0x40 | (b[6] & 0xf)), b[8] = (u8)(0x80 | (b[8] & 0x3f));
    for (iz i = 0; i < countof(b); i++)
        at += sprintf(id + at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
}

/* Starts a bootstrap; returns 0 when it asks for its first event, else how it failed, as an
 * outcome; then there is no process. */
static char serve_init(local_lambda *s, const char *phase, i64 end)
{
    world *w = &s->w;
    world_start(w);
    s->peak_kb = 0;
    while (w->pid && !w->first_next && now_ns() < end && !serve_stop)
        serve_turn(s, end);
    if (w->first_next)
        return 0;
    char outcome = w->pid ? 't' : 'x';
    serve_kill(w);
    if (!serve_stop)
        serve_say_init(s, phase, now_ns() - w->started, outcome);
    return outcome;
}

/* What the caller of an invocation is told that had no answer. AWS's emulator sends the bare
 * sentence "Task timed out after 8.00 seconds" for a time-out, says nothing at all of a process
 * that died, and never sends X-Amz-Function-Error. Here: Lambda's bodies and header. */
static void serve_failure(const world *w, world_event *v, int seconds)
{
    textbuf *body = &v->body;
    text_clear(body);
    text_fill(body, "{'errorType':@,'errorMessage':'RequestId: # Error: ",
              v->outcome == 't' ? "Sandbox.Timedout" : "Runtime.ExitError", v->id);
    if (v->outcome == 't') {
        text_format(body, "Task timed out after %d.00 seconds", seconds);
    } else if (WIFSIGNALED(w->exit_status)) {
        const char *name = strsignal(WTERMSIG(w->exit_status));
        text_puts(body, "Runtime exited with error: signal: ");
        text_format(body, "%c%s", name[0] | 0x20, name + 1); /* Lambda's names begin small */
    } else if (WEXITSTATUS(w->exit_status)) {
        text_format(body, "Runtime exited with error: exit status %d", WEXITSTATUS(w->exit_status));
    } else {
        text_puts(body, "Runtime exited without providing a reason");
    }
    text_puts(body, "\"}");
}

/* Answers who waits for this invocation, if they still do. */
static void serve_reply(world *w, int serial, const world_event *v)
{
    textbuf headers = {0};
    text_format(&headers, "X-Amzn-Requestid: %s\r\nX-Amz-Executed-Version: $LATEST\r\n%s", v->id,
                v->outcome == 'r' ? "" : "X-Amz-Function-Error: Unhandled\r\n");
    world_reply a = {.status = 200, .headers = headers.ptr, .framing = W_SIZED};
    a.body = text_str(&v->body);
    for (int i = 0; i < W_CONNS; i++)
        if (w->conn[i].fd >= 0 && w->conn[i].serial == serial)
            conn_answer(&w->conn[i], &a), conn_flush(w, &w->conn[i]);
    text_free(&headers);
}

/* Is a connection to the Runtime API open? A process that ended leaves none once all that it sent
 * has been read, unless a child of it lives. */
static b32 serve_hears(const world *w)
{
    b32 open = 0;
    for (int i = 0; i < W_CONNS; i++)
        open |= w->conn[i].fd >= 0 && w->conn[i].listener == W_API;
    return open;
}

/* Serves until the event is answered and another one asked for; else 'x' or 't'. */
static char serve_await(local_lambda *s, world_event *v, int serial, i64 end)
{
    world *w = &s->w;
    b32 told = 0;
    int nexts = w->nexts;
    for (int gone = 0; !v->outcome || w->nexts == nexts;) {
        if (w->pid && (now_ns() >= end || serve_stop))
            return 't';
        if (!w->pid && (!serve_hears(w) || gone++ == 200))
            return 'x';
        serve_turn(s, w->pid ? end : 0);
        if (v->outcome && !told)
            told = 1, serve_reply(w, serial, v);
    }
    return v->outcome;
}

/* Runs one invocation from START to REPORT. serial is the connection that waits for the answer, 0
 * if none does. What is to be told to the caller is left in v's outcome and body; returned is the
 * outcome that REPORT names, which is another one if the process hung or died behind its answer. */
static char serve_event(local_lambda *s, world_event *v, int serial)
{
    world *w = &s->w;
    i64 start = now_ns(), limit = s->seconds * SECOND, end = start + limit;
    char outcome = 0;
    if (!w->pid) {
        world_drop(w, W_API, 0); /* an event handed to a dead one would be lost */
        outcome = serve_init(s, "invoke", end);
    }
    i64 left_ms = (end - now_ns()) / 1000000;
    v->deadline_ms = left_ms > 1 ? (int)left_ms : 1;
    v->id = s->id;
    serve_make_id(s->id);
    serve_say_start(s, v->id);
    world_begin(w, v);
    if (!outcome)
        outcome = serve_await(s, v, serial, end);
    serve_figures f = {
        v->id, outcome == 't' ? limit : now_ns() - start, s->init_ns, s->memory_mb, 0, outcome};
    if (!v->outcome && !serve_stop) {
        v->outcome = outcome;
        serve_failure(w, v, s->seconds);
        serve_reply(w, serial, v);
    }
    serve_look(s);
    f.peak_mb = (int)((s->peak_kb + 1023) / 1024);
    f.peak_mb += !f.peak_mb;
    if (outcome == 't' || outcome == 'x')
        serve_kill(w);
    if (!serve_stop)
        serve_say_end(s, &f);
    s->init_ns = 0;
    w->current = NULL;
    return outcome;
}

/* ---- the invoke endpoint ---- */

/* The longest waiting invoke: its request and the connection that waits for the answer. */
static world_conn *serve_next(world *w, world_request **q)
{
    for (iz i = 0; i < w->requests; i++)
        for (int c = 0; c < W_CONNS; c++)
            if (w->request[i].listener == W_INVOKE && w->conn[c].fd >= 0 && w->conn[c].held &&
                w->conn[c].serial == w->request[i].conn) {
                *q = &w->request[i];
                return &w->conn[c];
            }
    world_forget(w);
    return NULL;
}

/* POST /2015-03-31/functions/{any name}/invocations, with or without a query. */
static b32 serve_is_invoke(const char *path)
{
    const char *base = "/2015-03-31/functions/", *end = "/invocations";
    iz n = (iz)strcspn(path, "?"), e = (iz)strlen(end), b = (iz)strlen(base);
    return n > b + e && !strncmp(path, base, (size_t)b) && !strncmp(path + n - e, end, (size_t)e);
}

/* The first in the queue, or an answer at once to what is no invoke. */
static void serve_request(local_lambda *s, world_conn *c, world_request *q)
{
    textbuf event = {0}, type = {0};
    int serial = c->serial;
    head_value(&q->head, "X-Amz-Invocation-Type", &type);
    b32 later = type.len && !strcmp(type.ptr, "Event");
    q->listener = -1; /* not to be found again when its connection brings another */
    if (!serve_is_invoke(q->path.ptr)) {
        conn_answer_json(c, 404, "404 page not found\n");
    } else if (strcmp(q->method, "POST")) {
        conn_answer_json(c, 405, "{\"Message\":\"Method Not Allowed\"}");
    } else if (q->body.len > SERVE_EVENT_MAX) {
        conn_answer(c, &(world_reply){.status = 413,
                                      .headers = "X-Amzn-Errortype: RequestTooLargeException\r\n",
                                      .body = S("{\"message\":\"the event is over 6 MiB\"}")});
    } else if (type.len && !strcmp(type.ptr, "DryRun")) {
        conn_answer_json(c, 204, "");
    } else {
        text_add(&event, q->body.ptr, q->body.len);
        world_event v = {.event = text_str(&event)};
        if (later)
            conn_answer_json(c, 202, ""), conn_flush(&s->w, c);
        serve_event(s, &v, later ? 0 : serial);
        world_done(&v);
    }
    text_free(&event), text_free(&type);
}

/* Answers POSTs until SIGINT or SIGTERM, one after another; the others wait in their order. */
static int serve_stay(local_lambda *s)
{
    world *w = &s->w;
    printf("curl -d '{\"version\":\"1.0\",\"request\":{\"type\":\"LaunchRequest\"}}' "
           "http://127.0.0.1:%d/2015-03-31/functions/function/invocations\n",
           w->port[W_INVOKE]);
    fflush(stdout);
    while (!serve_stop) {
        world_request *q = NULL;
        world_conn *c = serve_next(w, &q);
        b32 lived = w->pid != 0;
        if (c)
            serve_request(s, c, q);
        else
            worlds_pump(&w, 1, 1000);
        if (!c && lived && !w->pid && !serve_stop)
            fprintf(stderr, "serve: the bootstrap ended; the next event starts it anew\n");
        text_clear(&w->violations);
        if (!c)
            text_clear(&w->log);
    }
    return 0;
}

/* ---- its command line ---- */

typedef struct {
    int port; /* -1: not given */
    int seconds, memory_mb;
    b32 live;
    const char *said[SERVE_ASKS]; /* NULL: the event is */
    textbuf event[SERVE_ASKS];
    iz asks;
} serve_options;

__attribute__((format(printf, 1, 2))) static b32 serve_wrong(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "serve: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    return 0;
}

/* A whole number from least to most; text may be NULL, which is none. */
static b32 serve_number(const char *text, int least, int most, int *n)
{
    iz digits = text ? (iz)strspn(text, "0123456789") : 0;
    if (!digits || digits > 6 || text[digits] || atoi(text) < least || atoi(text) > most)
        return 0;
    *n = atoi(text);
    return 1;
}

/* Reads a file, - for standard input. */
static b32 serve_file(const char *name, textbuf *t)
{
    static char chunk[1 << 16];
    size_t n = 0;
    text_clear(t);
    FILE *f = strcmp(name, "-") ? fopen(name, "re") : stdin;
    while (f && t->len <= SERVE_EVENT_MAX && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        text_add(t, chunk, (iz)n);
    b32 bad = !f || ferror(f);
    int reason = errno;
    if (f && f != stdin)
        fclose(f);
    if (bad)
        return serve_wrong("cannot read %s: %s", name, strerror(reason));
    return t->len <= SERVE_EVENT_MAX || serve_wrong("%s is over 6 MiB", name);
}

/* One option with its value, which is NULL at the end of the line. */
static b32 serve_option(serve_options *o, const char *name, const char *value)
{
    b32 event = !strcmp(name, "--event"), say = !strcmp(name, "--say");
    if (!event && !say && strcmp(name, "--timeout"))
        return serve_wrong("%s is not known; known are PORT, --timeout SECONDS, --event FILE, "
                           "--say TEXT",
                           name);
    if (!value)
        return serve_wrong("%s wants a value", name);
    if (!event && !say)
        return serve_number(value, 1, SERVE_SECONDS_MAX, &o->seconds) ||
               serve_wrong("--timeout wants 1 to %d seconds, not %s", SERVE_SECONDS_MAX, value);
    if (o->asks == SERVE_ASKS)
        return serve_wrong("at most %d of --event and --say", SERVE_ASKS);
    o->said[o->asks] = say ? value : NULL;
    return say ? ++o->asks > 0 : serve_file(value, &o->event[o->asks]) && ++o->asks > 0;
}

/* Takes arguments and environment; false behind a line that says what is wrong. */
static b32 serve_parse(serve_options *o, int argc, char **argv)
{
    const char *limit = getenv("AWS_LAMBDA_FUNCTION_TIMEOUT"), *tfl = getenv("TFL");
    const char *memory = getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
    *o = (serve_options){.port = -1, .seconds = SERVE_SECONDS, .memory_mb = 128};
    o->live = tfl && !strcmp(tfl, "live");
    if (tfl && *tfl && !o->live)
        return serve_wrong("TFL is %s; it may be live, or not set", tfl);
    if (limit && *limit && !serve_number(limit, 1, SERVE_SECONDS_MAX, &o->seconds))
        return serve_wrong("AWS_LAMBDA_FUNCTION_TIMEOUT is %s, not 1 to %d seconds", limit,
                           SERVE_SECONDS_MAX);
    if (memory && *memory && !serve_number(memory, 128, 10240, &o->memory_mb))
        return serve_wrong("AWS_LAMBDA_FUNCTION_MEMORY_SIZE is %s, not 128 to 10240", memory);
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] != '-' && o->port < 0) {
            if (!serve_number(argv[i], 0, 65535, &o->port))
                return serve_wrong("%s is no port", argv[i]);
        } else if (!serve_option(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL)) {
            return 0;
        } else {
            i++;
        }
    }
    if (o->asks && o->port >= 0)
        return serve_wrong("a port is of no use with --event or --say, which end when answered");
    return 1;
}

/* Lambda's variables. Of the user's go in, and win, those that the skill and its surroundings read;
 * nothing else of the user's environment does. */
static void serve_environment(world *w, b32 live)
{
    static const char *const left_out[] = {
        "AWS_ACCESS_KEY_ID",     "AWS_SECRET_ACCESS_KEY",   "AWS_SESSION_TOKEN",
        "AWS_LAMBDA_LOG_FORMAT", "Skill__TflApplicationId", "Skill__TflApplicationKey",
        "Skill__SkillId", /* an event typed by hand need not have one */
    };
    static const char *const taken[] = {"Skill__", "AWS_", "SSL_CERT_", "QEMU_",
                                        "PARAMETERS_SECRETS_EXTENSION_"};
    for (iz i = 0; i < countof(left_out); i++)
        world_env(w, left_out[i]);
    if (live)
        world_env(w, "Skill__TflApiUrl");
    for (char **pair = environ; *pair; pair++)
        for (iz i = 0; i < countof(taken); i++)
            if (!strncmp(*pair, taken[i], strlen(taken[i])))
                world_env(w, *pair);
    world_env_format(w, "AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d", w->port[W_API]);
}

static b32 serve_listen(world *w, int port)
{
    w->listener[W_INVOKE] = world_listen(port < 0 ? 9000 : port);
    if (w->listener[W_INVOKE] < 0 && port < 0)
        w->listener[W_INVOKE] = world_listen(9001);
    if (w->listener[W_INVOKE] < 0)
        return serve_wrong("the port is taken");
    w->port[W_INVOKE] = world_port(w->listener[W_INVOKE]);
    return 1;
}

/* Hands over what was asked for, in order, to one bootstrap; false if one was not answered well.
 * What is said goes on with the session that the answer before left open. */
static b32 serve_asked(local_lambda *s, serve_options *o)
{
    const char *id = getenv("Skill__SkillId");
    textbuf session = {0};
    b32 good = 1;
    for (iz i = 0; i < o->asks && !serve_stop; i++) {
        textbuf shown = {0};
        if (o->said[i]) {
            alexa_event e = run_say(o->said[i]).event;
            e.attributes = session.len ? session.ptr : NULL;
            e.skill_id = id && !strncmp(id, "amzn1.", 6) ? id : NULL;
            event_make(&o->event[i], &e);
        }
        world_event v = {.event = text_str(&o->event[i])};
        good &= serve_event(s, &v, 0) == 'r';
        if (peek_json(text_str(&v.body), "", &shown) == '!')
            text_format(&shown, "%s\n", v.body.ptr);
        else
            text_clear(&shown), text_pretty(&shown, text_str(&v.body));
        if (v.outcome)
            printf("%s", shown.ptr);
        fflush(stdout);
        run_session(&session, text_str(&v.body));
        world_done(&v);
        world_forget(&s->w);
        text_free(&shown);
    }
    text_free(&session);
    return good && !serve_stop;
}

/* All of it but the limit of the first init, which a test makes shorter. */
static int serve_main(int argc, char **argv, int init_ms)
{
    struct sigaction act = {.sa_handler = serve_signal};
    const char *format = getenv("AWS_LAMBDA_LOG_FORMAT");
    static serve_options o;
    static local_lambda s;
    world *w = &s.w;
    if (!serve_parse(&o, argc, argv))
        return 2;
    if (access(world_bootstrap(), X_OK)) {
        serve_wrong("cannot run %s: %s. Type: make", world_bootstrap(), strerror(errno));
        return 1;
    }
    s = (local_lambda){.seconds = o.seconds, .memory_mb = o.memory_mb};
    s.as_json = format && !strcasecmp(format, "JSON");
    world_open(w);
    w->log_shown = stderr;
    serve_environment(w, o.live);
    int status = 1;
    if (o.asks || serve_listen(w, o.port)) {
        sigaction(SIGINT, &act, NULL);
        sigaction(SIGTERM, &act, NULL);
        if (!serve_init(&s, "init", now_ns() + init_ms * MS))
            s.init_ns = w->first_next - w->started;
        status = o.asks ? !serve_asked(&s, &o) : serve_stay(&s);
    }
    serve_kill(w);
    world_close(w);
    for (iz i = 0; i < o.asks; i++)
        text_free(&o.event[i]);
    return status;
}

/* `skill_test serve [PORT] [--timeout SECONDS]`: a local Lambda until SIGINT or SIGTERM; exit
 * status 0. With --event FILE or --say TEXT, each as often as wanted, it hands over these events
 * and prints the answers, log lines on standard error: 0 if all were answered, 1 if not. */
static int command_serve(int argc, char **argv)
{
    return serve_main(argc, argv, SERVE_INIT_MS);
}

/* ---------------------------------------------------------------------------------------------
 * End to end: the real bootstrap in its world
 *
 * Each test starts a bootstrap of its own. Everything that any of them wrote is kept and searched
 * at the end for what must never stand in a log: all secrets of these tests hold the word MARKER.
 * Wants world_test.c above it. BOOTSTRAP and RUNNER in the environment choose another binary, as
 * the aarch64 one under qemu.
 * ------------------------------------------------------------------------------------------ */

static textbuf e2e_log; /* the output of every bootstrap so far */

static const alexa_event e2e_help = {.type = "IntentRequest", .intent = "AMAZON.HelpIntent"};
static const alexa_event e2e_commute = {
    .type = "IntentRequest", .intent = "CommuteIntent", .token = world_token};
static const alexa_event e2e_disruption = {.type = "IntentRequest", .intent = "DisruptionIntent"};
static const alexa_event e2e_victoria = {.type = "IntentRequest",
                                         .intent = "StatusIntent",
                                         .spoken = "victoria",
                                         .id = "victoria",
                                         .name = "Victoria"};

static b32 e2e_ready(void)
{
    b32 there = !access(world_bootstrap(), X_OK);
    skipped += !there;
    return there;
}

static void e2e_open(world *w)
{
    world_open(w);
    world_start(w);
}

/* Every line of the log must be what the platform can filter. */
static void e2e_check_log(const world *w)
{
    textbuf level = {0}, time = {0};
    b32 good = 1;
    for (const char *at = w->log.ptr; *at && good;) {
        iz n = (iz)strcspn(at, "\n");
        str entry = {(const u8 *)at, n};
        good = peek_json(entry, "level", &level) == 's' &&
               peek_json(entry, "timestamp", &time) == 's' && at[n] == '\n';
        if (!good)
            fprintf(stderr, "log line: %.*s\n", (int)(n < 300 ? n : 300), at);
        at += n + (at[n] == '\n');
    }
    CHECK(good);
    text_free(&level), text_free(&time);
}

/* What the child has written is here after this. */
static void e2e_read_log(world *w)
{
    do
        world_read_log(w);
    while (poll(&(struct pollfd){w->log_fd, POLLIN, 0}, 1, 0) > 0);
}

/* Ends a world; what is true of every test is checked here. */
static void e2e_close(world *w)
{
    world_kill(w);
    if (w->violations.len)
        fprintf(stderr, "%s", w->violations.ptr);
    CHECK(!w->violations.len);
    CHECK(!w->init_error.len);
    e2e_check_log(w);
    text_add(&e2e_log, w->log.ptr, w->log.len);
    world_close(w);
}

/* Hands over one event in the given way; what Alexa says is put into heard. */
static char e2e_ask_how(world *w, const alexa_event *e, world_event *v, textbuf *heard)
{
    textbuf sent = {0}, ssml = {0};
    event_make(&sent, e);
    v->event = text_str(&sent);
    char outcome = world_invoke(w, v, 9000);
    v->event = S("");
    text_clear(heard);
    if (outcome == 'r' && peek_json(text_str(&v->body), "response.outputSpeech.ssml", &ssml) == 's')
        text_heard(heard, ssml.ptr);
    CHECK(outcome != 'r' || peek_json(text_str(&v->body), "version", &ssml) == 's');
    CHECK(!text_has(&v->body, "MARKER"));
    text_free(&sent), text_free(&ssml);
    return outcome;
}

static char e2e_ask(world *w, const alexa_event *e, textbuf *heard)
{
    world_event v = {0};
    char outcome = e2e_ask_how(w, e, &v, heard);
    world_done(&v);
    return outcome;
}

/* The same process still answers. */
static b32 e2e_alive(world *w)
{
    textbuf heard = {0};
    pid_t pid = w->pid;
    b32 alive = e2e_ask(w, &e2e_help, &heard) == 'r' && heard.len && w->pid == pid;
    text_free(&heard);
    return alive;
}

/* The posted error's type: the same in body and header, and one that Lambda keeps. */
static b32 e2e_error_type(const world_event *v, textbuf *type)
{
    textbuf header = {0}, message = {0};
    b32 good = v->outcome == 'e' && peek_json(text_str(&v->body), "errorType", type) == 's' &&
               peek_json(text_str(&v->body), "errorMessage", &message) == 's' && message.len &&
               peek_json(text_str(&v->body), "stackTrace", &message) == '[' &&
               head_value(&v->head, "Lambda-Runtime-Function-Error-Type", &header) &&
               !strcmp(header.ptr, type->ptr);
    const char *name = !good                                 ? ""
                       : !strncmp(type->ptr, "Runtime.", 8)  ? type->ptr + 8
                       : !strncmp(type->ptr, "Function.", 9) ? type->ptr + 9
                                                             : "";
    good &= *name >= 'A' && *name <= 'Z' && name[1];
    for (; *name; name++)
        good &= (*name >= 'A' && *name <= 'Z') || (*name >= 'a' && *name <= 'z');
    text_free(&header), text_free(&message);
    return good;
}

/* Posts raw bytes as the event; true if one named error came back. */
static b32 e2e_refused(world *w, str event, textbuf *type)
{
    world_event v = {.event = event};
    world_forget(w);
    text_clear(type);
    world_invoke(w, &v, 9000);
    b32 good = e2e_error_type(&v, type) && world_count(w, W_API, "/error", NULL) == 1 &&
               world_count(w, W_API, "/response", NULL) == 0;
    if (!good)
        fprintf(stderr, "outcome %c, type %s, event %.*s\n", v.outcome, type->ptr,
                (int)(event.len < 80 ? event.len : 80), event.ptr);
    world_done(&v);
    return good;
}

/* ---- the checker itself ---- */

static void test_e2e_json_reader(void)
{
    static const char *const good[] = {"{}",      "[]",          "0",
                                       "-0.5e+3", " [1 , 2] ",   "\"\"",
                                       "[true]",  "\"\\u00e9\"", "\"\\ud83d\\ude00\""};
    static const char *const bad[] = {
        "",          "{",           "[1,]",        "01",       "1.",           "+1",
        "1e",        "nul",         "\"\t\"",      "\"\\x\"",  "{\"a\"}",      "{a:1}",
        "[1]x",      "\"\\ud83d\"", "\"\\udc00\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
        "{\"a\":1,}"};
    textbuf out = {0};
    for (iz i = 0; i < countof(good); i++)
        CHECK(peek_json((str){(const u8 *)good[i], (iz)strlen(good[i])}, "x", &out) == 0);
    for (iz i = 0; i < countof(bad); i++)
        CHECK(peek_json((str){(const u8 *)bad[i], (iz)strlen(bad[i])}, "x", &out) == '!');
    CHECK(peek_json(S("{\"a\":[0,{\"b\":\"\\u00e9\\n\"}],\"c\":1}"), "a.1.b", &out) == 's');
    CHECK(!strcmp(out.ptr, "\xc3\xa9\n"));
    CHECK(peek_json(S("{\"aa\":1,\"a\":{\"b\": [ 2 ]}}"), "a.b", &out) == '[');
    CHECK(!strcmp(out.ptr, "[ 2 ]"));
    text_free(&out);
}

/* ---- the conversation ---- */

static void test_e2e_conversation(void)
{
    static const alexa_event launch = {.type = "LaunchRequest"};
    alexa_event circle = e2e_victoria, unlinked = e2e_commute, stale = e2e_commute;
    circle.spoken = circle.id = "circle", circle.name = "Circle";
    unlinked.token = NULL, stale.token = "not.the-good_one";
    world w;
    textbuf heard = {0}, out = {0};
    world_event v = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    CHECK(e2e_ask_how(&w, &launch, &v, &heard) == 'r' && heard.len);
    CHECK(peek_json(text_str(&v.body), "response.shouldEndSession", &out) == 'f');
    CHECK(peek_json(text_str(&v.body), "response.reprompt.outputSpeech.ssml", &out) == 's');
    CHECK(e2e_ask_how(&w, &e2e_victoria, &v, &heard) == 'r');
    CHECK(text_has(&heard, "good service") && text_has(&heard, "Victoria"));
    CHECK(peek_json(text_str(&v.body), "response.shouldEndSession", &out) == 't');
    CHECK(e2e_ask(&w, &circle, &heard) == 'r');
    CHECK(text_has(&heard, "between Edgware Road and Aldgate"));
    CHECK(text_has(&heard, "High Street Kensington") && !text_has(&heard, "Circle Line:"));
    CHECK(e2e_ask(&w, &e2e_disruption, &heard) == 'r');
    CHECK(text_has(&heard, "a shortage of trains") && text_has(&heard, "Liverpool Street"));
    CHECK(!text_has(&heard, "Turnham Green"));
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    CHECK(text_has(&heard, "Victoria") && text_has(&heard, "customer incident"));
    CHECK(text_has(&heard, "King's Cross St Pancras") && text_has(&heard, "northbound"));
    CHECK(e2e_ask_how(&w, &unlinked, &v, &heard) == 'r' && heard.len);
    CHECK(peek_json(text_str(&v.body), "response.card.type", &out) == 's');
    CHECK(!strcmp(out.ptr, "LinkAccount"));
    CHECK(e2e_ask_how(&w, &stale, &v, &heard) == 'r' && heard.len);
    CHECK(peek_json(text_str(&v.body), "response.card.type", &out) == 's');
    CHECK(!strcmp(out.ptr, "LinkAccount"));
    world_done(&v);
    e2e_close(&w);
    text_free(&heard), text_free(&out);
}

/* Requests that take no speech, and those of a session that goes on. */
static void test_e2e_session(void)
{
    static const char *const silent[] = {"SessionEndedRequest", "System.ExceptionEncountered",
                                         "AlexaSkillEvent.SkillDisabled", "Connections.Response"};
    alexa_event stop = e2e_help, repeat = e2e_help, launch = {.type = "LaunchRequest"};
    stop.intent = "AMAZON.StopIntent", repeat.intent = "AMAZON.RepeatIntent";
    world w;
    textbuf heard = {0}, first = {0}, attributes = {0};
    world_event v = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < countof(silent); i++) {
        alexa_event e = {.type = silent[i]};
        CHECK(e2e_ask_how(&w, &e, &v, &heard) == 'r');
        CHECK(peek_json(text_str(&v.body), "version", &first) == 's');
        if (i < 2)
            CHECK(!text_has(&v.body, "outputSpeech"));
    }
    CHECK(e2e_ask(&w, &repeat, &heard) == 'r' && heard.len);
    CHECK(e2e_ask_how(&w, &launch, &v, &first) == 'r' && first.len);
    if (peek_json(text_str(&v.body), "sessionAttributes", &attributes) != '{')
        text_puts(&attributes, "{}");
    CHECK(!text_has(&attributes, "amzn1"));
    repeat.attributes = attributes.ptr;
    CHECK(e2e_ask(&w, &repeat, &heard) == 'r');
    CHECK(heard.len && !strcmp(heard.ptr, first.ptr));
    CHECK(e2e_ask_how(&w, &stop, &v, &heard) == 'r');
    CHECK(peek_json(text_str(&v.body), "response.shouldEndSession", &heard) == 't');
    world_done(&v);
    e2e_close(&w);
    text_free(&heard), text_free(&first), text_free(&attributes);
}

/* What Alexa says is what TfL said: a reason that nobody could have written down before. */
static void test_e2e_random_reason(void)
{
    world w;
    textbuf heard = {0}, reason = {0};
    char word[25] = {0};
    if (!e2e_ready())
        return;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, word, 24) == 24);
    close(fd);
    for (int i = 0; i < 24; i++)
        word[i] = (char)('a' + (u8)word[i] % 26);
    text_format(&reason, "Victoria Line: Severe delays because of a %s at Brixton. ", word);
    e2e_open(&w);
    w.reason_line = "victoria", w.reason = reason.ptr;
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && text_has(&heard, word));
    CHECK(e2e_ask(&w, &e2e_disruption, &heard) == 'r' && text_has(&heard, word));
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, word));
    CHECK(!text_has(&w.log, word));
    e2e_close(&w);
    text_free(&heard), text_free(&reason);
}

/* The requests that the upstreams get, to the letter. */
static void test_e2e_upstream_requests(void)
{
    world w;
    textbuf heard = {0}, value = {0};
    const world_request *q = NULL;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    world_env(&w, "Skill__TflApplicationKey=k e&y%/+=MARKER");
    world_kill(&w), world_start(&w);
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    CHECK(world_count(&w, W_PREFS, "", &q) == 1);
    CHECK(q && !strcmp(q->path.ptr, "/api/preferences") && !strcmp(q->method, "GET"));
    text_format(&heard, "Bearer %s", world_token);
    CHECK(q && head_value(&q->head, "Authorization", &value) && text_has(&heard, value.ptr));
    q = NULL;
    CHECK(world_count(&w, W_TFL, "/Line/northern%2Cvictoria/Status?", &q) +
              world_count(&w, W_TFL, "/Line/victoria%2Cnorthern/Status?", &q) ==
          1);
    CHECK(q && text_has(&q->path, "app_id=app-id-MARKER"));
    CHECK(q && text_has(&q->path, "app_key=k%20e%26y%25%2F%2B%3DMARKER"));
    CHECK(q && !head_value(&q->head, "Authorization", &value));
    world_env_format(&w, "Skill__TflApiUrl=http://127.0.0.1:%d/base", w.port[W_TFL]);
    world_env(&w, "Skill__TflApplicationKey"), world_env(&w, "Skill__TflApplicationId");
    world_kill(&w), world_start(&w);
    q = NULL;
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r');
    CHECK(world_count(&w, W_TFL, "/base/Line/victoria/Status", &q) == 1);
    CHECK(q && !strcmp(q->path.ptr, "/base/Line/victoria/Status"));
    e2e_close(&w);
    text_free(&heard), text_free(&value);
}

/* What comes from outside is never put into a request unless it is of the allowed characters. */
static void test_e2e_injection(void)
{
    static const char *const tokens[] = {"abc\r\nX-Evil: MARKER",
                                         "a b",
                                         "a\xc3\xa9",
                                         "a\tb",
                                         "a\"b",
                                         "a;b",
                                         "a=b",
                                         "=",
                                         "a,b",
                                         "a%20b"};
    static const char *const ids[] = {"victoria/../x", "victoria?x=y", "victoria\r\nX: y",
                                      "VIC TOR"};
    static const char *const trace[] = {"has a blank", "caf\xc3\xa9"};
    world w;
    textbuf heard = {0}, value = {0};
    world_event v = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < countof(tokens); i++) {
        alexa_event e = e2e_commute;
        e.token = tokens[i];
        char outcome = e2e_ask(&w, &e, &heard);
        CHECK(outcome == 'r' || outcome == 'e');
    }
    CHECK(world_count(&w, W_PREFS, "", NULL) == 0);
    for (iz i = 0; i < countof(ids); i++) {
        alexa_event e = e2e_victoria;
        e.spoken = e.id = e.name = ids[i];
        CHECK(e2e_ask(&w, &e, &heard) == 'r' && heard.len);
    }
    CHECK(world_count(&w, W_TFL, "", NULL) == 0);
    w.favourites = "[\"victoria\",\"vic/../x?y\",\"a b\",5,null,\"cen\\r\\ntral\"]";
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    CHECK(world_count(&w, W_TFL, "..", NULL) == 0);
    for (iz i = 0; i < countof(trace); i++) {
        v.invocation_id = trace[i];
        char outcome = e2e_ask_how(&w, &e2e_help, &v, &heard);
        CHECK(outcome == 'r' || outcome == 'e');
        CHECK(!head_value(&v.head, "Lambda-Runtime-Invocation-Id", &value));
    }
    CHECK(e2e_alive(&w));
    world_done(&v);
    e2e_close(&w);
    text_free(&heard), text_free(&value);
}

/* Favourites that TfL does not know: the list is refused, its ids are asked one by one. */
static void test_e2e_favourites(void)
{
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    w.favourites = "[\"windrush\",\"no-such-line\",\"tfl-rail\",\"victoria\",\"victoria\"]";
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    CHECK(text_has(&heard, "Victoria") && text_has(&heard, "Elizabeth"));
    CHECK(text_has(&heard, "shortage of trains") && !text_has(&heard, "Mildmay"));
    CHECK(world_count(&w, W_TFL, "/Line/no-such-line/Status", NULL) == 1);
    CHECK(world_count(&w, W_TFL, "/Line/victoria/Status", NULL) == 1);
    CHECK(world_count(&w, W_TFL, "tfl-rail", NULL) == 0);
    w.favourites = "[]";
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && heard.len);
    CHECK(!text_has(&heard, "Victoria"));
    w.favourites = "[\"london-overground\"]";
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    CHECK(text_has(&heard, "Mildmay") && text_has(&heard, "Windrush"));
    e2e_close(&w);
    text_free(&heard);
}

/* ---- delivery: whole, byte by byte, split at every point ---- */

/* Asks again and again, with the answer of one upstream split after every byte and then in pieces
 * of one; says each time what it said when nothing was split. */
static void e2e_split_upstream(world *w, int listener, const char *path, const alexa_event *e,
                               world_reply reply)
{
    textbuf whole = {0}, heard = {0}, bytes = {0};
    int wrong = 0;
    text_reply(&bytes, &reply);
    world_plan(w, listener, path, reply);
    CHECK(e2e_ask(w, e, &whole) == 'r' && whole.len);
    for (iz k = 1; k <= bytes.len && !w->plans; k++) {
        reply.split = k < bytes.len ? k : 0;
        reply.piece = k < bytes.len ? 0 : 1;
        world_plan(w, listener, path, reply);
        wrong += e2e_ask(w, e, &heard) != 'r' || strcmp(heard.ptr, whole.ptr);
        if (k % 64 == 0)
            world_forget(w);
    }
    CHECK(wrong == 0 && w->plans == 0);
    text_free(&whole), text_free(&heard), text_free(&bytes);
}

static void test_e2e_upstream_split(void)
{
    static const char one[] =
        "[{\"$type\":\"x\",\"id\":\"victoria\",\"name\":\"Victoria\",\"modeName\":\"tube\","
        "\"lineStatuses\":[{\"statusSeverity\":6,\"statusSeverityDescription\":\"Severe Delays\","
        "\"reason\":\"Victoria Line: Severe delays at King\\u2019s Cross caf\xc3\xa9 \\\"Z\\\".\","
        "\"validityPeriods\":[]}]}]";
    world w;
    world_reply sized = {.status = 200, .framing = W_SIZED, .body = S(one)};
    world_reply chunked = {.status = 200, .framing = W_CHUNKED, .body = S(one), .chunk = 11};
    world_reply to_end = {.status = 200, .framing = W_TO_CLOSE, .body = S(one)};
    world_reply single = {.status = 200, .framing = W_CHUNKED, .body = S(one), .chunk = 1};
    world_reply prefs = {.status = 200, .framing = W_SIZED};
    prefs.body = S("{\"favoriteLines\":[\"victoria\"],\"userId\":\"MARKER\"}");
    chunked.fancy = 1;
    chunked.headers = "X-Folded-Not: a\r\nX-Empty:\r\n";
    if (!e2e_ready())
        return;
    e2e_open(&w);
    e2e_split_upstream(&w, W_TFL, "/Status", &e2e_victoria, sized);
    e2e_split_upstream(&w, W_TFL, "/Status", &e2e_victoria, chunked);
    e2e_split_upstream(&w, W_TFL, "/Status", &e2e_victoria, to_end);
    e2e_split_upstream(&w, W_TFL, "/Status", &e2e_victoria, single);
    e2e_split_upstream(&w, W_PREFS, "/api/preferences", &e2e_commute, prefs);
    e2e_close(&w);
}

/* Events, and the answers to the POSTs, in two pieces cut at every point and in single bytes. */
static void test_e2e_event_split(void)
{
    world w;
    textbuf heard = {0}, whole = {0}, sent = {0};
    int wrong = 0;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    CHECK(e2e_ask(&w, &e2e_help, &whole) == 'r' && whole.len);
    event_make(&sent, &e2e_help);
    for (int framing = W_SIZED; framing <= W_CHUNKED; framing++)
        for (iz k = 1; k < sent.len + 500; k++) {
            world_event v = {
                .how = {.framing = (world_framing)framing, .split = k, .fancy = k & 1}};
            v.how.chunk = framing == W_CHUNKED && k & 2 ? 512 : 0;
            v.answer.split = k < 200 ? k : 0;
            wrong += e2e_ask_how(&w, &e2e_help, &v, &heard) != 'r' || strcmp(heard.ptr, whole.ptr);
            world_done(&v);
            if (k % 64 == 0)
                world_forget(&w);
        }
    CHECK(wrong == 0);
    for (int i = 0; i < 4; i++) {
        world_event v = {.how = {.framing = i & 1 ? W_CHUNKED : W_SIZED, .piece = i & 2 ? 1 : 7}};
        v.how.chunk = i & 2 ? 1 : 3;
        v.answer.piece = 1;
        v.answer.framing = i & 1 ? W_CHUNKED : W_SIZED;
        CHECK(e2e_ask_how(&w, &e2e_help, &v, &heard) == 'r' && !strcmp(heard.ptr, whole.ptr));
        world_done(&v);
    }
    e2e_close(&w);
    text_free(&heard), text_free(&whole), text_free(&sent);
}

/* ---- the Runtime API ---- */

static void test_e2e_optional_headers(void)
{
    world w;
    textbuf heard = {0}, value = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (int i = 0; i < 32; i++) {
        world_event v = {.no_deadline = i & 1, .no_arn = i >> 1 & 1, .no_trace = i >> 2 & 1};
        v.invocation_id = i & 8 ? "0f1e2d3c-Inv.ocation" : NULL;
        b32 hostile = i & 16;
        if (hostile)
            v.event = S("[]"), world_invoke(&w, &v, 9000);
        else
            e2e_ask_how(&w, &e2e_help, &v, &heard);
        CHECK(v.outcome == (hostile ? 'e' : 'r'));
        b32 echoed = head_value(&v.head, "Lambda-Runtime-Invocation-Id", &value);
        CHECK(echoed == !!v.invocation_id);
        CHECK(!echoed || !strcmp(value.ptr, v.invocation_id));
        world_done(&v);
    }
    e2e_close(&w);
    text_free(&heard), text_free(&value);
}

/* An event without a request id can be answered by nobody; the next one is. */
static void test_e2e_no_request_id(void)
{
    world w;
    textbuf sent = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    event_make(&sent, &e2e_help);
    world_event v = {.event = text_str(&sent), .no_id = 1};
    CHECK(world_invoke(&w, &v, 300) == 't');
    CHECK(e2e_alive(&w));
    CHECK(w.log.len && world_count(&w, W_API, "/response", NULL) == 1);
    CHECK(world_count(&w, W_API, "/error", NULL) == 0);
    world_done(&v);
    e2e_close(&w);
    text_free(&sent);
}

/* The platform's variables for the log are obeyed. */
static void test_e2e_log_settings(void)
{
    static const struct {
        const char *level, *format;
        b32 lines, json;
    } rows[] = {{"AWS_LAMBDA_LOG_LEVEL=FATAL", "AWS_LAMBDA_LOG_FORMAT=JSON", 0, 1},
                {"AWS_LAMBDA_LOG_LEVEL=ERROR", "AWS_LAMBDA_LOG_FORMAT=JSON", 1, 1},
                {"AWS_LAMBDA_LOG_LEVEL=TRACE", "AWS_LAMBDA_LOG_FORMAT=Text", 1, 0},
                {"AWS_LAMBDA_LOG_LEVEL", "AWS_LAMBDA_LOG_FORMAT", 1, 0}};
    world w;
    textbuf type = {0};
    if (!e2e_ready())
        return;
    for (iz i = 0; i < countof(rows); i++) {
        world_open(&w);
        world_env(&w, rows[i].level), world_env(&w, rows[i].format);
        world_start(&w);
        CHECK(e2e_refused(&w, S("[]"), &type));
        CHECK(world_idle(&w, 2000));
        CHECK((w.log.len > 0) == rows[i].lines);
        CHECK(!rows[i].lines || (w.log.ptr[0] == '{') == rows[i].json);
        CHECK(!rows[i].lines || text_has(&w.log, "8f507dfc-5e1b-4c4a-9b1f-000000000001"));
        text_add(&e2e_log, w.log.ptr, w.log.len);
        if (!rows[i].json)
            text_clear(&w.log);
        e2e_close(&w);
    }
    text_free(&type);
}

/* Answers to a POST that must be survived, and the one that must not. */
static void test_e2e_post_answers(void)
{
    static const int statuses[] = {400, 403, 410, 413};
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < countof(statuses); i++) {
        world_event v = {.answer = {.status = statuses[i]}}, bad = v;
        bad.event = S("[]");
        iz log = w.log.len;
        CHECK(e2e_ask_how(&w, &e2e_help, &v, &heard) == 'r');
        CHECK(world_idle(&w, 2000));
        CHECK(w.log.len > log && strstr(w.log.ptr + log, v.made_id));
        CHECK(world_invoke(&w, &bad, 9000) == 'e');
        CHECK(e2e_alive(&w));
        world_done(&v), world_done(&bad);
    }
    e2e_close(&w);
    for (int i = 0; i < 2; i++) {
        world_event v = {.answer = {.status = 500}};
        e2e_open(&w);
        if (i)
            v.event = S("[]"), world_invoke(&w, &v, 9000);
        else
            e2e_ask_how(&w, &e2e_help, &v, &heard);
        CHECK(v.outcome == (i ? 'e' : 'r'));
        CHECK(world_wait_exit(&w, 3000) > 0);
        world_done(&v);
        e2e_close(&w);
    }
    text_free(&heard);
}

/* Answers to next after which there is no going on, at the start and later. */
static void test_e2e_next_answers(void)
{
    static const int statuses[] = {403, 500};
    world w;
    if (!e2e_ready())
        return;
    for (int i = 0; i < 4; i++) {
        world_reply refusal = {.status = statuses[i & 1], .body = S("{\"errorType\":\"x\"}")};
        world_open(&w);
        if (i & 2) {
            world_start(&w);
            CHECK(e2e_alive(&w) && world_idle(&w, 2000));
            world_plan(&w, W_API, "/next", refusal);
            world_drop(&w, W_API, 0);
        } else {
            world_plan(&w, W_API, "/next", refusal);
            world_start(&w);
        }
        CHECK(world_wait_exit(&w, 3000) > 0);
        CHECK(w.log.len);
        e2e_close(&w);
    }
}

/* Connections that the Runtime API ends between two requests, and while next waits. */
static void test_e2e_reconnect(void)
{
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (int i = 0; i < 6; i++) {
        world_event v = {.answer = {.after = i & 1 ? W_RESET : W_CLOSE}};
        v.how.after = i >= 4 ? W_CLOSE : W_KEEP;
        v.answer.headers = i == 2 ? "Connection: close\r\n" : NULL;
        CHECK(e2e_ask_how(&w, &e2e_help, &v, &heard) == 'r' && heard.len);
        CHECK(e2e_alive(&w));
        world_done(&v);
    }
    CHECK(world_count(&w, W_API, "/response", NULL) == 12);
    for (int i = 0; i < 4; i++) {
        CHECK(world_idle(&w, 2000));
        world_drop(&w, W_API, i & 1);
        CHECK(e2e_alive(&w));
    }
    CHECK(world_idle(&w, 2000));
    world_refuse(&w, W_API);
    world_drop(&w, W_API, 0);
    CHECK(world_wait_exit(&w, 8000) > 0);
    e2e_close(&w);
    text_free(&heard);
}

/* A POST whose connection breaks before its answer: sent once more, the same, and no third time. */
static void test_e2e_resend(void)
{
    static const world_reply broken[] = {
        {.after = W_RESET}, {.after = W_CLOSE}, {.status = 202, .cut = 12, .after = W_CLOSE}};
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    for (iz i = 0; i < countof(broken); i++) {
        world_event v = {0};
        e2e_open(&w);
        world_plan(&w, W_API, "/response", broken[i]);
        CHECK(e2e_ask_how(&w, &e2e_help, &v, &heard) == 'r' && heard.len);
        CHECK(world_count(&w, W_API, "/response", NULL) == 2);
        CHECK(w.request[1].body.len && !strcmp(w.request[1].body.ptr, v.body.ptr));
        CHECK(w.request[1].conn != w.request[2].conn);
        CHECK(e2e_alive(&w));
        world_forget(&w);
        world_plan(&w, W_API, "/response", broken[i]);
        world_plan(&w, W_API, "/response", broken[i]);
        CHECK(e2e_ask_how(&w, &e2e_help, &v, &heard) == 'x');
        CHECK(world_wait_exit(&w, 3000) > 0);
        CHECK(world_count(&w, W_API, "/response", NULL) == 2);
        world_done(&v);
        e2e_close(&w);
    }
    text_free(&heard);
}

/* The forms of AWS_LAMBDA_RUNTIME_API; without it a word to whoever ran it by hand. */
static void test_e2e_api_forms(void)
{
    static const struct {
        const char *form, *prefix;
    } rows[] = {
        {"AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d", ""},
        {"AWS_LAMBDA_RUNTIME_API=localhost:%d", ""},
        {"AWS_LAMBDA_RUNTIME_API=http://127.0.0.1:%d", ""},
        {"AWS_LAMBDA_RUNTIME_API=http://localhost:%d/", ""},
        {"AWS_LAMBDA_RUNTIME_API=http://127.0.0.1:%d/base/path", "/base/path"},
        {"AWS_LAMBDA_RUNTIME_API=http://127.0.0.1:%d/base/path/", "/base/path"},
    };
    static const char *const bad[] = {
        "AWS_LAMBDA_RUNTIME_API",           "AWS_LAMBDA_RUNTIME_API=",
        "AWS_LAMBDA_RUNTIME_API=:",         "AWS_LAMBDA_RUNTIME_API=127.0.0.1:99999",
        "AWS_LAMBDA_RUNTIME_API=ftp://a:1", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:80 x"};
    world w;
    if (!e2e_ready())
        return;
    for (iz i = 0; i < countof(rows); i++) {
        world_open(&w);
        world_env_format(&w, rows[i].form, w.port[W_API]);
        w.api_prefix = rows[i].prefix;
        world_start(&w);
        CHECK(e2e_alive(&w));
        e2e_close(&w);
    }
    for (iz i = 0; i < countof(bad); i++) {
        world_open(&w);
        world_env(&w, bad[i]);
        world_start(&w);
        int status = world_wait_exit(&w, 3000);
        CHECK(i < 2 ? status == 1 && text_has(&w.log, "make run") : status > 0);
        CHECK(w.log.len);
        text_clear(&w.log); /* said to a person: not a line for the platform */
        e2e_close(&w);
    }
}

/* Events of exactly 6 MiB. */
static void test_e2e_large_events(void)
{
    enum { MIB6 = 6 << 20 };
    world w;
    textbuf sent = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    event_make(&sent, &e2e_help);
    sent.len--; /* the last brace */
    text_puts(&sent, ",\"pad\":[\"");
    for (iz i = sent.len + 3; i < MIB6; i++)
        text_add(&sent, i % 64 ? "x" : "\\", 1), i += !(i % 64) ? (text_add(&sent, "n", 1), 1) : 0;
    sent.len = MIB6 - 3;
    if (sent.ptr[sent.len - 1] == '\\')
        sent.ptr[sent.len - 1] = 'y';
    text_puts(&sent, "\"]}");
    CHECK(sent.len == MIB6);
    for (int i = 0; i < 2; i++) {
        world_event v = {.event = text_str(&sent), .how = {.framing = i ? W_CHUNKED : W_SIZED}};
        CHECK(world_invoke(&w, &v, 9000) == 'r');
        CHECK(text_has(&v.body, "outputSpeech"));
        world_done(&v);
        CHECK(e2e_alive(&w));
    }
    e2e_close(&w);
    text_free(&sent);
}

/* ---- events that are none ---- */

static void test_e2e_hostile_events(void)
{
    static const char *const events[] = {
        "",
        " ",
        "not json",
        "null",
        "[]",
        "{}",
        "\"LaunchRequest\"",
        "{\"version\":\"1.0\"}",
        "{\"version\":\"1.0\",\"request\":null}",
        "{\"version\":\"1.0\",\"request\":[]}",
        "{\"version\":\"1.0\",\"request\":\"LaunchRequest\"}",
        "{\"version\":\"1.0\",\"request\":{}}",
        "{\"version\":\"1.0\",\"request\":{\"type\":null}}",
        "{\"version\":\"1.0\",\"request\":{\"type\":[\"LaunchRequest\"]}}",
        "{\"version\":\"1.0\",\"request\":{\"type\":{\"type\":\"LaunchRequest\"}}}",
        "{\"version\":\"1.0\",\"request\":{\"request\":{\"type\":\"LaunchRequest\"}}}",
        "{\"version\":\"1.0\",\"request\":{\"type\":\"LaunchRequest\"}",
        "{\"version\":\"1.0\",\"request\":{\"type\":\"LaunchRequest\"}}}",
        "{\"version\":\"1.0\",\"request\":{\"type\":\"LaunchRequest\"}} x",
        "{\"version\":\"1.0\",\"request\":{\"type\":\"Launch\xff\"}}",
        "{\"version\":\"1.0\",\"\xc0\xaf\":1,\"request\":{\"type\":\"LaunchRequest\"}}",
        "{\"version\":\"1.0\",\"x\":01,\"request\":{\"type\":\"LaunchRequest\"}}",
        "{'version':'1.0'}",
    };
    world w;
    textbuf type = {0}, large = {0};
    if (!e2e_ready())
        return;
    world_open(&w);
    world_env(&w, "Skill__SkillId");
    world_start(&w);
    for (iz i = 0; i < countof(events); i++) {
        CHECK(e2e_refused(&w, (str){(const u8 *)events[i], (iz)strlen(events[i])}, &type));
        CHECK(e2e_alive(&w));
    }
    for (int i = 0; i < 200000; i++)
        text_puts(&large, "[");
    CHECK(e2e_refused(&w, text_str(&large), &type) && e2e_alive(&w));
    text_clear(&large);
    for (int i = 0; i < 40000; i++)
        text_puts(&large, "{\"request\":");
    CHECK(e2e_refused(&w, text_str(&large), &type) && e2e_alive(&w));
    text_clear(&large);
    text_puts(&large, "\"");
    for (int i = 0; i < 5 << 10; i++)
        for (int k = 0; k < 16; k++)
            text_puts(&large, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\\");
    large.ptr[large.len - 1] = '"';
    CHECK(e2e_refused(&w, text_str(&large), &type) && e2e_alive(&w));
    e2e_close(&w);
    text_free(&type), text_free(&large);
}

/* Every id that is present must be this skill's, and there must be one. */
static void test_e2e_skill_id(void)
{
    static const char ours[] = "{\"applicationId\":\"amzn1.ask.skill.49f13574-8134-4748-afeb-"
                               "62ef4defffa6\"}";
    static const char other[] = "{\"applicationId\":\"amzn1.ask.skill.49f13574-8134-4748-afeb-"
                                "62ef4defffa7\"}";
    static const struct {
        const char *session, *context;
        b32 good;
    } rows[] = {{ours, ours, 1},  {ours, NULL, 1},  {NULL, ours, 1},
                {ours, other, 0}, {other, ours, 0}, {other, other, 0},
                {NULL, NULL, 0},  {other, NULL, 0}, {NULL, other, 0}};
    world w;
    textbuf type = {0}, sent = {0};
    if (!e2e_ready())
        return;
    for (int verify = 0; verify < 3; verify++) {
        world_open(&w);
        if (verify == 1)
            world_env(&w, "Skill__VerifySkillId=false");
        if (verify == 2)
            world_env(&w, "Skill__SkillId");
        world_start(&w);
        for (iz i = 0; i < countof(rows); i++) {
            text_clear(&sent);
            text_fill(&sent, "{'version':'1.0'");
            if (rows[i].session)
                text_fill(&sent, ",'session':{'new':true,'application':#}", rows[i].session);
            if (rows[i].context)
                text_fill(&sent, ",'context':{'System':{'application':#}}", rows[i].context);
            text_fill(&sent, ",'request':{'type':'LaunchRequest'}}");
            if (verify || rows[i].good) {
                world_event v = {.event = text_str(&sent)};
                CHECK(world_invoke(&w, &v, 9000) == 'r');
                world_done(&v);
            } else {
                CHECK(e2e_refused(&w, text_str(&sent), &type));
                CHECK(!strcmp(type.ptr, "Function.SkillIdMismatch"));
            }
        }
        e2e_close(&w);
    }
    text_free(&type), text_free(&sent);
}

/* ---- upstreams that fail ---- */

#define RAW(text)                                              \
    {                                                          \
        .framing = W_RAW, .after = W_CLOSE, .body = BODY(text) \
    }

/* Each is given up to three times, for the retries. The user hears an apology, in time. */
static void e2e_failures(int listener, const char *path, const alexa_event *e)
{
    static const char html[] = "<!DOCTYPE html><title>upstream-body-MARKER</title>";
    static const world_reply rows[] = {
        {.after = W_RESET},
        {.after = W_CLOSE},
        {.status = 400, .body = BODY("{\"message\":\"upstream-body-MARKER\"}")},
        {.status = 408},
        {.status = 429},
        {.status = 429, .headers = "Retry-After: 3600\r\n"},
        {.status = 500, .body = BODY(html), .headers = "Content-Type: text/html\r\n"},
        {.status = 503, .after = W_CLOSE},
        {.status = 200, .body = BODY(html), .headers = "Content-Type: text/html\r\n"},
        {.status = 200, .body = BODY("")},
        {.status = 204},
        {.status = 302, .headers = "Location: http://127.0.0.1:1/\r\n"},
        {.status = 200, .body = BODY("{\"a\":1}")},
        {.status = 200, .body = BODY("[{\"upstream-body-MARKER")},
        {.status = 200, .body = BODY("\"\xff\"")},
        {.status = 200,
         .body = BODY("[]        "),
         .framing = W_SIZED,
         .cut = -3,
         .after = W_CLOSE},
        {.status = 200,
         .body = BODY("[]        "),
         .framing = W_CHUNKED,
         .cut = -3,
         .after = W_RESET},
        RAW("\0\1\2garbage upstream-body-MARKER\r\n\r\n"),
        RAW("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n[]    "),
        RAW("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n[]"),
        RAW("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n[]"),
        RAW("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n"),
        RAW("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n[]"),
        RAW("SSH-2.0-OpenSSH_9.2p1\r\n"),
    };
    world w;
    textbuf heard = {0};
    e2e_open(&w);
    CHECK(e2e_ask(&w, e, &heard) == 'r' && !strcasestr(heard.ptr, "sorry"));
    iz files = world_open_files(&w);
    for (iz i = 0; i < countof(rows); i++) {
        world_event v = {0};
        iz log = w.log.len;
        for (int k = 0; k < 3; k++)
            world_plan(&w, listener, path, rows[i]);
        char outcome = e2e_ask_how(&w, e, &v, &heard);
        b32 good = outcome == 'r' && strcasestr(heard.ptr, "sorry") && v.ns < 7000000000LL;
        if (!good)
            fprintf(stderr, "row %td: outcome %c, %lld ms: %s\n", i, outcome, v.ns / 1000000,
                    heard.ptr);
        CHECK(good);
        CHECK(w.plans < 3);
        w.plans = 0;
        CHECK(e2e_ask(&w, e, &heard) == 'r' && !strcasestr(heard.ptr, "sorry"));
        CHECK(w.log.len > log && strstr(w.log.ptr + log, v.made_id));
        world_done(&v);
    }
    world_refuse(&w, listener);
    world_drop(&w, listener, 0);
    CHECK(e2e_ask(&w, e, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    world_reopen(&w, listener);
    CHECK(e2e_ask(&w, e, &heard) == 'r' && !strcasestr(heard.ptr, "sorry"));
    CHECK(world_idle(&w, 2000) && world_open_files(&w) == files);
    e2e_close(&w);
    text_free(&heard);
}

static void test_e2e_tfl_fails(void)
{
    if (e2e_ready())
        e2e_failures(W_TFL, "/Line/", &e2e_victoria);
}

static void test_e2e_disruption_fails(void)
{
    if (e2e_ready())
        e2e_failures(W_TFL, "/Disruption", &e2e_disruption);
}

static void test_e2e_preferences_fail(void)
{
    if (e2e_ready())
        e2e_failures(W_PREFS, "/api/", &e2e_commute);
}

/* An answer far over every limit, and statuses that are no failure of the service. */
static void test_e2e_upstream_odd(void)
{
    static const int unlinked[] = {401, 403};
    world w;
    textbuf heard = {0}, large = {0}, out = {0};
    world_reply huge = {.status = 200, .framing = W_CHUNKED, .chunk = 65536};
    if (!e2e_ready())
        return;
    text_puts(&large, "[");
    while (large.len < 8 << 20)
        text_puts(&large, "{\"id\":\"victoria\",\"name\":\"Victoria\",\"lineStatuses\":[]},");
    text_puts(&large, "{}]");
    huge.body = text_str(&large);
    e2e_open(&w);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 3; k++)
            world_plan(&w, W_TFL, "/Line/", huge);
        CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
        w.plans = 0;
        CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && !strcasestr(heard.ptr, "sorry"));
        huge.framing = W_SIZED;
    }
    for (iz i = 0; i < countof(unlinked); i++) {
        world_event v = {0};
        world_plan(&w, W_PREFS, "/api/", (world_reply){.status = unlinked[i]});
        CHECK(e2e_ask_how(&w, &e2e_commute, &v, &heard) == 'r');
        CHECK(peek_json(text_str(&v.body), "response.card.type", &out) == 's');
        CHECK(!strcmp(out.ptr, "LinkAccount"));
        world_done(&v);
    }
    e2e_close(&w);
    text_free(&heard), text_free(&large), text_free(&out);
}

/* What is tried again, how often, and that the second answer is what counts. */
static void test_e2e_retries(void)
{
    static const struct {
        world_reply first, second;
        iz asked;     /* requests in all */
        int least_ms; /* the wait that Retry-After asks for */
    } rows[] = {
        {{.status = 500}, {0}, 2, 0},
        {{.status = 503}, {.status = 502}, 3, 0},
        {{.status = 408}, {0}, 2, 0},
        {{.status = 429}, {0}, 2, 0},
        {{.status = 429, .headers = "Retry-After: 1\r\n"}, {0}, 2, 1000},
        {{.status = 503, .headers = "retry-after: 1\r\n"}, {0}, 2, 0},
    };
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < countof(rows); i++) {
        world_event v = {0};
        world_forget(&w);
        world_plan(&w, W_TFL, "/Line/", rows[i].first);
        if (rows[i].second.status)
            world_plan(&w, W_TFL, "/Line/", rows[i].second);
        CHECK(e2e_ask_how(&w, &e2e_victoria, &v, &heard) == 'r');
        CHECK(text_has(&heard, "good service"));
        CHECK(world_count(&w, W_TFL, "/Line/victoria/Status", NULL) == rows[i].asked);
        CHECK(v.ns >= rows[i].least_ms * 1000000LL && v.ns < 6000000000LL);
        world_done(&v);
    }
    world_forget(&w);
    world_plan(&w, W_TFL, "/Line/", (world_reply){.status = 400});
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(world_count(&w, W_TFL, "", NULL) == 1);
    e2e_close(&w);
    text_free(&heard);
}

/* Kept connections to upstreams that were closed or reset meanwhile are no reason to apologise. */
static void test_e2e_kept_dies(void)
{
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (int i = 0; i < 6; i++) {
        CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
        CHECK(world_idle(&w, 2000));
        world_drop(&w, W_TFL, i & 1);
        world_drop(&w, W_PREFS, i & 2);
        if (i >= 3) { /* it dies only when the request is on it */
            CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
            world_plan(&w, W_TFL, "/Line/", (world_reply){.after = i & 1 ? W_RESET : W_CLOSE});
            world_plan(&w, W_PREFS, "/api/", (world_reply){.after = i & 1 ? W_RESET : W_CLOSE});
        }
    }
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
    world_forget(&w);
    for (int i = 0; i < 3; i++)
        CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
    for (iz i = 0, prefs = 0; i < w.requests; i++)
        if (w.request[i].listener == W_PREFS)
            CHECK(!prefs || w.request[i].conn == prefs), prefs = w.request[i].conn;
    e2e_close(&w);
    text_free(&heard);
}

/* All that has to do with waiting, side by side in worlds of their own. */
static void test_e2e_silence(void)
{
    static const struct {
        int listener, deadline_ms;
        b32 kept, sorry;
        int least_ms, most_ms;
        world_reply reply;
        int times;
    } rows[] = {
        {W_TFL, 0, 0, 1, 0, 7200, {0}, 3},
        {W_TFL, 3000, 0, 1, 0, 3000, {0}, 3},
        {W_TFL, 0, 0, 1, 0, 7200, {.status = 200, .body = BODY("[]"), .cut = -1}, 3},
        {W_TFL, 3000, 0, 1, 0, 3000, {.status = 200, .body = BODY("[]"), .delay_ms = 20000}, 3},
        {W_TFL, 0, 1, 0, 1900, 3500, {0}, 1},
        {W_TFL, 0, 0, 0, 1000, 4500, {.status = 500, .delay_ms = 1000}, 1},
        {W_PREFS, 0, 0, 1, 0, 7200, {0}, 3},
        {W_PREFS, 0, 1, 0, 1900, 3500, {0}, 1},
    };
    enum { N = countof(rows) };
    static world worlds[N];
    world *w[N];
    world_event v[N] = {0};
    textbuf heard = {0}, sent = {0}, out = {0};
    if (!e2e_ready())
        return;
    event_make(&sent, &e2e_commute);
    for (iz i = 0; i < N; i++) {
        w[i] = &worlds[i];
        e2e_open(w[i]);
        if (rows[i].kept)
            CHECK(e2e_ask(w[i], &e2e_commute, &heard) == 'r');
        for (int k = 0; k < rows[i].times; k++)
            world_plan(w[i], rows[i].listener, "/", rows[i].reply);
        v[i].deadline_ms = rows[i].deadline_ms;
        v[i].event = text_str(&sent);
        world_begin(w[i], &v[i]);
    }
    worlds_finish(w, N, 9000);
    for (iz i = 0; i < N; i++) {
        b32 speech = peek_json(text_str(&v[i].body), "response.outputSpeech.ssml", &out) == 's';
        b32 sorry = speech && strcasestr(out.ptr, "sorry");
        iz ms = v[i].ns / 1000000;
        b32 good =
            speech && sorry == rows[i].sorry && ms >= rows[i].least_ms && ms <= rows[i].most_ms;
        if (!good)
            fprintf(stderr, "row %td: %c after %td ms: %s\n", i, v[i].outcome, ms, out.ptr);
        CHECK(good);
        w[i]->plans = 0;
        world_done(&v[i]);
        CHECK(e2e_ask(w[i], &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
        e2e_close(w[i]);
    }
    text_free(&heard), text_free(&sent), text_free(&out);
}

/* A base URL that would send a token in the clear to another machine is not used. */
static void test_e2e_not_loopback(void)
{
    world w;
    textbuf heard = {0};
    if (!e2e_ready())
        return;
    world_open(&w);
    /* On Linux 0.0.0.0 leads to this machine, so that the stand-ins would answer if asked. */
    world_env_format(&w, "Skill__TflApiUrl=http://0.0.0.0:%d/", w.port[W_TFL]);
    world_env_format(&w, "Skill__SkillApiUrl=http://0.0.0.0:%d/", w.port[W_PREFS]);
    world_start(&w);
    world_event v = {0};
    CHECK(e2e_ask_how(&w, &e2e_victoria, &v, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(v.ns < 1000000000LL);
    CHECK(e2e_ask_how(&w, &e2e_commute, &v, &heard) == 'r' && v.ns < 1000000000LL);
    CHECK(world_count(&w, W_TFL, "", NULL) == 0 && world_count(&w, W_PREFS, "", NULL) == 0);
    world_done(&v);
    e2e_close(&w);
    world_open(&w);
    world_env(&w, "Skill__SkillApiUrl");
    world_start(&w);
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && heard.len);
    e2e_close(&w);
    text_free(&heard);
}

/* Runs `command`, in which %s stands for a host name, against dnsmasq on port 53 in a network and
 * mount namespace of its own, with its own /etc/resolv.conf and /etc/hosts; and looks in what it
 * writes (stdout and stderr) for the addresses or the error's name. Three passes: over IPv4, over
 * IPv6, and with a first server that is not there. Without root (or user namespaces) or dnsmasq it
 * counts as skipped. With the finished program:
 *     dns_real_server("build/skill_test get -v http://%s:8080/");  */
static void dns_real_server(const char *command)
{
    static const struct {
        const char *host, *finds, *finds_too, *never;
    } rows[] = {
        {"one.test", "192.0.2.1", "", "2001:db8"},
        {"both.test", "192.0.2.2", "2001:db8::2", "Dns"},
        {"six.test", "2001:db8::6", "", "192.0.2"},
        {"alias.test", "192.0.2.1", "", "Dns"},
        {"alias6.test", "2001:db8::6", "", "Dns"},
        {"many.test", "198.51.100.", "", "Dns"},
        {"many6.test", "2001:db8:6::", "", "Dns"},
        {"missing.test", "DnsNoSuchName", "", "192.0.2"},
        {"empty.test", "DnsNoAddress", "", "192.0.2"},
        {"name.elsewhere", "DnsRefused", "", "192.0.2"}, /* no upstream server */
        {"hosted.test", "192.0.2.77", "", "Dns"},
        {"127.0.0.5", "127.0.0.5", "", "Dns"},
    };
    static const char *const servers[] = {"nameserver 127.0.0.1", "nameserver ::1",
                                          "nameserver 127.0.0.9\\nnameserver 127.0.0.1"};
    char dir[] = "/tmp/skill_dns.XXXXXX", path[64], text[600];
    static char all[1 << 16];
    if (!mkdtemp(dir)) {
        check_at(__FILE__, __LINE__, 0, "mkdtemp");
        return;
    }
    snprintf(path, sizeof path, "%s/run", dir);
    FILE *f = fopen(path, "w");
    if (!f) {
        check_at(__FILE__, __LINE__, 0, "a script in /tmp");
        return;
    }
    fprintf(f,
            "PATH=$PATH:/usr/sbin:/sbin\nd=%s\n"
            "command -v dnsmasq >/dev/null && command -v ip >/dev/null || { echo skip; exit; }\n"
            "ip link set lo up || { echo skip; exit; }\n"
            "for i in $(seq 60); do echo 198.51.100.$i many.test; echo 2001:db8:6::$i many6.test; "
            "done >$d/many\n"
            "echo 192.0.2.77 hosted.test >$d/hosts\n"
            "touch $d/resolv\n"
            "mount --bind $d/hosts /etc/hosts && mount --bind $d/resolv /etc/resolv.conf || "
            "{ echo skip; exit; }\n"
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --port=53 "
            "--no-resolv --no-hosts --local=/test/ --local-ttl=60 --addn-hosts=$d/many "
            "--listen-address=127.0.0.1,::1 --bind-interfaces --host-record=one.test,192.0.2.1 "
            "--host-record=both.test,192.0.2.2,2001:db8::2 --host-record=six.test,2001:db8::6 "
            "--cname=alias.test,one.test --cname=alias6.test,six.test "
            "--txt-record=empty.test,nothing >$d/log 2>&1 &\n"
            "pid=$!\n"
            "for i in $(seq 100); do grep -q ':0035 ' /proc/net/udp6 && break; sleep 0.05; done\n",
            dir);
    for (size_t s = 0; s < sizeof servers / sizeof *servers; s++) {
        fprintf(f, "printf '%s\\n' >$d/resolv\n", servers[s]);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            fprintf(f, "echo '<%d %s'\n", (int)s, rows[i].host);
            fprintf(f, command, rows[i].host);
            fprintf(f, " 2>&1\necho '>'\n");
        }
    }
    fprintf(f, "kill $pid; echo done\n");
    fclose(f);
    snprintf(text, sizeof text, "unshare $([ $(id -u) = 0 ] || echo -r) -n -m sh %s 2>&1", path);
    f = popen(text, "r");
    size_t n = f ? fread(all, 1, sizeof all - 1, f) : 0;
    all[n] = 0;
    if (f)
        pclose(f);
    if (!strncmp(all, "skip", 4) || !strncmp(all, "unshare", 7)) {
        skipped++;
    } else {
        CHECK(strstr(all, "\ndone\n") != 0);
        for (size_t s = 0; s < sizeof servers / sizeof *servers; s++)
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                char head[80], part[4000];
                snprintf(head, sizeof head, "<%d %s\n", (int)s, rows[i].host);
                char *from = strstr(all, head), *to = from ? strstr(from, "\n>\n") : 0;
                snprintf(part, sizeof part, "%.*s", to ? (int)(to - from - (int)strlen(head)) : 0,
                         to ? from + strlen(head) : "");
                int good = *part && strstr(part, rows[i].finds) &&
                           strstr(part, rows[i].finds_too) && !strstr(part, rows[i].never);
                check_at(__FILE__, __LINE__, good, head);
                if (!good)
                    fprintf(stderr, "  said: %s\n", part);
            }
    }
    snprintf(text, sizeof text, "rm -rf %s", dir);
    CHECK(!system(text));
}

/* ---- the local Lambda itself: serve ---- */

/* A `skill_test serve` of its own process, and what it wrote. */
typedef struct {
    pid_t pid;
    FILE *out, *err;
    textbuf said, log; /* of standard output and error, once it has ended */
} serve_child;

/* Starts it with these arguments and, instead of what the environment holds of such names, these
 * variables; NAME alone is taken away. Both lists end with NULL. */
static void serve_spawn(serve_child *c, int init_ms, const char *const *args,
                        const char *const *env)
{
    static const char *const apart[] = {"Skill__", "AWS_", "TFL=", "SSL_CERT_"};
    char *argv[2 * SERVE_ASKS + 4], name[64];
    int argc = 0;
    *c = (serve_child){.out = tmpfile(), .err = tmpfile()};
    if (!c->out || !c->err)
        abort();
    fflush(NULL);
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(getppid() == parent ? 100 : 1);
    for (iz i = 0; i < countof(apart); i++)
        for (char **pair = environ; *pair;)
            if (!strncmp(*pair, apart[i], strlen(apart[i]))) {
                snprintf(name, sizeof name, "%.*s", (int)strcspn(*pair, "="), *pair);
                unsetenv(name), pair = environ;
            } else {
                pair++;
            }
    for (; env && *env; env++)
        if (strchr(*env, '='))
            putenv((char *)(uz)*env);
        else
            unsetenv(*env);
    while (args[argc])
        argv[argc] = (char *)(uz)args[argc], argc++;
    dup2(fileno(c->out), 1);
    dup2(fileno(c->err), 2);
    int status = serve_main(argc, argv, init_ms);
    fflush(NULL);
    _exit(status);
}

static void serve_read(FILE *f, textbuf *t)
{
    char chunk[4096];
    iz n, at = 0;
    text_clear(t);
    while ((n = pread(fileno(f), chunk, sizeof chunk, at)) > 0)
        text_add(t, chunk, n), at += n;
}

/* Waits for its end; gives its exit status, or 128 and the signal. */
static int serve_ended(serve_child *c)
{
    int status = -1;
    waitpid(c->pid, &status, 0);
    serve_read(c->out, &c->said);
    serve_read(c->err, &c->log);
    fclose(c->out);
    fclose(c->err);
    text_add(&e2e_log, c->log.ptr, c->log.len);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void serve_free(serve_child *c)
{
    text_free(&c->said);
    text_free(&c->log);
}

#define LAMBDA_ID "RequestId: [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#define LAMBDA_MS "[0-9]+\\.[0-9]{2} ms"
#define LAMBDA_REPORT                                                                   \
    "^REPORT " LAMBDA_ID "\tDuration: " LAMBDA_MS "\tBilled Duration: [1-9][0-9]* ms\t" \
    "Memory Size: 128 MB\tMax Memory Used: [1-9][0-9]* MB\t"
#define LAMBDA_INIT "Init Duration: " LAMBDA_MS "\t"
#define LAMBDA_EXIT "Status: error\tError Type: Runtime\\.ExitError$"

/* The log's lines as letters, in order: those below, '?' for what Lambda does not print. */
static void serve_lines(const textbuf *log, textbuf *letters)
{
    static const struct {
        char letter;
        const char *pattern; /* POSIX extended */
    } rows[] = {
        {'S', "^START " LAMBDA_ID " Version: [$]LATEST$"},
        {'E', "^END " LAMBDA_ID "$"},
        {'R', LAMBDA_REPORT "$"},
        {'N', LAMBDA_REPORT LAMBDA_INIT "$"},
        {'x', LAMBDA_REPORT LAMBDA_EXIT},
        {'X', LAMBDA_REPORT LAMBDA_INIT LAMBDA_EXIT},
        {'t', LAMBDA_REPORT "Status: timeout$"},
        {'T', LAMBDA_REPORT LAMBDA_INIT "Status: timeout$"},
        {'i', "^INIT_REPORT Init Duration: " LAMBDA_MS "\tPhase: init\t" LAMBDA_EXIT},
        {'I', "^INIT_REPORT Init Duration: " LAMBDA_MS "\tPhase: init\tStatus: timeout$"},
        {'j', "^INIT_REPORT Init Duration: " LAMBDA_MS "\tPhase: invoke\t" LAMBDA_EXIT},
        {'J', "^INIT_REPORT Init Duration: " LAMBDA_MS "\tPhase: invoke\tStatus: timeout$"},
    };
    regex_t compiled[countof(rows)];
    textbuf row = {0};
    text_clear(letters);
    for (iz i = 0; i < countof(rows); i++)
        CHECK(!regcomp(&compiled[i], rows[i].pattern, REG_EXTENDED | REG_NOSUB));
    for (const char *at = log->ptr; *at;) {
        iz n = (iz)strcspn(at, "\n"), i = 0;
        text_clear(&row);
        text_add(&row, at, n);
        while (i < countof(rows) && regexec(&compiled[i], row.ptr, 0, NULL, 0))
            i++;
        text_add(letters, i < countof(rows) ? &rows[i].letter : "?", 1);
        at += n + (at[n] == '\n');
    }
    for (iz i = 0; i < countof(rows); i++)
        regfree(&compiled[i]);
    text_free(&row);
}

/* The figures of AWS's "Understanding the Lambda execution environment lifecycle" (new style, and
 * old style for the one without an init), whose page has blanks for tabs, and edges of rounding. */
static void test_e2e_serve_report(void)
{
    static const struct {
        i64 us, init_us;
        int peak_mb;
        char outcome;
        const char *wanted;
    } rows[] = {
        {133610, 80000, 31, 'x',
         "Duration: 133.61 ms Billed Duration: 214 ms Memory Size: 128 MB Max Memory Used: 31 MB "
         "Init Duration: 80.00 ms Status: error Error Type: Runtime.ExitError"},
        {3016780, 84000, 31, 't',
         "Duration: 3016.78 ms Billed Duration: 3101 ms Memory Size: 128 MB Max Memory Used: 31 MB "
         "Init Duration: 84.00 ms Status: timeout"},
        {933590, 0, 9, 'r',
         "Duration: 933.59 ms Billed Duration: 934 ms Memory Size: 128 MB Max Memory Used: 9 MB "},
        {0, 0, 1, 'e',
         "Duration: 0.00 ms Billed Duration: 1 ms Memory Size: 128 MB Max Memory Used: 1 MB "},
        {2004, 1000, 1, 'r',
         "Duration: 2.00 ms Billed Duration: 3 ms Memory Size: 128 MB Max Memory Used: 1 MB "
         "Init Duration: 1.00 ms "},
        {2005, 1000, 1, 'r',
         "Duration: 2.01 ms Billed Duration: 4 ms Memory Size: 128 MB Max Memory Used: 1 MB "
         "Init Duration: 1.00 ms "},
    };
    static const char *const statuses[] = {"error", "timeout", "success", "error"};
    textbuf t = {0}, value = {0}, id = {0};
    text_puts(&id, "5b866fb1-7154-4af6-8078-6ef6ca4c2ddd");
    for (iz i = 0; i < countof(rows); i++) {
        serve_figures f = {id.ptr, rows[i].us * 1000, rows[i].init_us * 1000,
                           128,    rows[i].peak_mb,   rows[i].outcome};
        text_clear(&t);
        text_report(&t, 0, &f);
        for (char *at = t.ptr; (at = strchr(at, '\t'));)
            *at = ' ';
        CHECK(!strncmp(t.ptr, "REPORT RequestId: 5b866fb1-7154-4af6-8078-6ef6ca4c2ddd ", 55));
        CHECK_ROW(!strcmp(t.ptr + 55, rows[i].wanted), rows[i].wanted);
        text_clear(&t);
        text_report(&t, 1, &f);
        CHECK(peek_json(text_str(&t), "type", &value) == 's');
        CHECK(!strcmp(value.ptr, "platform.report"));
        CHECK(peek_json(text_str(&t), "record.requestId", &value) == 's' &&
              !strcmp(value.ptr, id.ptr));
        CHECK(peek_json(text_str(&t), "record.metrics.durationMs", &value) == 'n');
        CHECK(peek_json(text_str(&t), "record.metrics.billedDurationMs", &value) == 'n' &&
              atoi(value.ptr) == atoi(strstr(rows[i].wanted, "Billed Duration: ") + 17));
        CHECK(peek_json(text_str(&t), "record.metrics.initDurationMs", &value) ==
              (rows[i].init_us ? 'n' : 0));
        CHECK(peek_json(text_str(&t), "record.status", &value) == 's' &&
              (i > 3 || !strcmp(value.ptr, statuses[i])));
        CHECK(peek_json(text_str(&t), "record.errorType", &value) ==
              (rows[i].outcome == 'x' ? 's' : 0));
    }
    text_free(&t), text_free(&value), text_free(&id);
}

/* An init that failed, as the Telemetry API has it. */
static void test_e2e_serve_init_report(void)
{
    static const struct {
        char outcome;
        const char *phase, *status, *duration;
        i64 ns;
    } rows[] = {{'t', "init", "timeout", "10000.00", 10000 * MS},
                {'x', "invoke", "error", "0.50", MS / 2}};
    for (iz i = 0; i < countof(rows); i++) {
        static local_lambda s;
        textbuf t = {0}, value = {0};
        s = (local_lambda){.as_json = 1, .w = {.log_fd = -1, .log_shown = tmpfile()}};
        serve_say_init(&s, rows[i].phase, rows[i].ns, rows[i].outcome);
        serve_read(s.w.log_shown, &t);
        CHECK(peek_json(text_str(&t), "type", &value) == 's');
        CHECK(!strcmp(value.ptr, "platform.initReport"));
        CHECK(peek_json(text_str(&t), "record.phase", &value) == 's');
        CHECK(!strcmp(value.ptr, rows[i].phase));
        CHECK(peek_json(text_str(&t), "record.status", &value) == 's');
        CHECK(!strcmp(value.ptr, rows[i].status));
        CHECK(peek_json(text_str(&t), "record.metrics.durationMs", &value) == 'n');
        CHECK(!strcmp(value.ptr, rows[i].duration));
        CHECK((peek_json(text_str(&t), "record.errorType", &value) == 's') == i);
        fclose(s.w.log_shown);
        text_free(&s.w.log), text_free(&t), text_free(&value);
    }
}

/* The real one: a session that goes on, one warm process, and an event that is none. */
static void test_e2e_serve_asks(void)
{
    char path[] = "/tmp/skill_test.XXXXXX";
    const char *args[] = {"--say", "victoria", "--say", "help", "--say", "repeat", NULL};
    const char *bad[] = {"--event", path,    "--event",  "-", "--timeout",
                         "60",      "--say", "victoria", NULL};
    serve_child c;
    textbuf letters = {0};
    if (!e2e_ready())
        return;
    serve_spawn(&c, SERVE_INIT_MS, args, NULL);
    CHECK(serve_ended(&c) == 0);
    CHECK(text_has(&c.said, "There is a good service on the Victoria line."));
    const char *help = text_has(&c.said, "<speak>") ? strstr(c.said.ptr, "}\n{") : NULL;
    const char *again = help ? strstr(help + 3, "}\n{") : NULL;
    const char *first = help ? strstr(help, "\"ssml\"") : NULL;
    const char *second = again ? strstr(again, "\"ssml\"") : NULL;
    CHECK(second && first < again && strcspn(first, "\n") == strcspn(second, "\n") &&
          !strncmp(first, second, strcspn(first, "\n")));
    serve_lines(&c.log, &letters);
    iz n = 0; /* without the lines of the function's own */
    for (iz i = 0; i < letters.len; i++)
        if (letters.ptr[i] != '?')
            letters.ptr[n++] = letters.ptr[i];
    CHECK(n == 9 && !strncmp(letters.ptr, "SENSERSER", 9));
    serve_free(&c);

    int fd = mkstemp(path), input = dup(0);
    CHECK(fd >= 0 && write(fd, "[]", 2) == 2 && !lseek(fd, 0, SEEK_SET) && dup2(fd, 0) == 0);
    serve_spawn(&c, SERVE_INIT_MS, bad, (const char *[]){"AWS_LAMBDA_LOG_FORMAT=JSON", NULL});
    CHECK((input >= 0 ? dup2(input, 0) : close(0)) == 0);
    close(input), close(fd);
    CHECK(serve_ended(&c) == 1);
    const char *error = strstr(c.said.ptr, "\"errorType\": \"Function.");
    CHECK(error && strstr(error + 1, "\"errorType\": \"Function."));
    CHECK(text_has(&c.said, "good service on the Victoria line"));
    for (char *at = c.log.ptr; *at;) {
        iz end = (iz)strcspn(at, "\n");
        CHECK(peek_json((str){(u8 *)at, end}, "", &letters) == '{');
        at += end + (at[end] == '\n');
    }
    CHECK(text_has(&c.log, "\"type\":\"platform.start\""));
    CHECK(text_has(&c.log, "\"status\":\"error\"") && text_has(&c.log, "\"status\":\"success\""));
    unlink(path);
    serve_free(&c), text_free(&letters);
}

/* What every hostile bootstrap below begins with, in bash, which can open sockets. n counts starts;
 * next takes an event, answer posts. */
static const char serve_prelude[] =
    "#!/bin/bash\n"
    "n=$(($(cat \"$0.n\" 2>/dev/null) + 1)); echo $n >\"$0.n\"\n"
    "open() { exec 3<>\"/dev/tcp/${AWS_LAMBDA_RUNTIME_API/://}\"; }\n"
    "take() { IFS= read -r status <&3 || exit 9; size=0\n"
    "  while IFS= read -r head <&3 && [ \"$head\" != $'\\r' ]; do\n"
    "    head=${head%$'\\r'}\n"
    "    case ${head,,} in\n"
    "    content-length:*) size=${head#*: } ;;\n"
    "    lambda-runtime-aws-request-id:*) id=${head#*: } ;;\n"
    "    lambda-runtime-deadline-ms:*) deadline=${head#*: } ;;\n"
    "    esac; done\n"
    "  IFS= read -r -N \"$size\" body <&3; }\n"
    "next() { printf 'GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\n' >&3\n"
    "  printf 'Host: x\\r\\nUser-Agent: x\\r\\n\\r\\n' >&3; take; }\n"
    "tell() { printf 'POST /2018-06-01/runtime/invocation/%s/%s HTTP/1.1\\r\\n' \"$id\" $1 >&3\n"
    "  printf 'Host: x\\r\\nUser-Agent: x\\r\\nContent-Type: application/json\\r\\n' >&3\n"
    "  printf 'Content-Length: %d\\r\\n\\r\\n%s' ${#2} \"$2\" >&3; }\n"
    "answer() { tell $1 \"$2\"; take; }\n"
    "good() { while next; do answer response '{\"start\":'$n'}'; done; }\n"
    "open\n";

static b32 serve_script(char *path, const char *text)
{
    if (access("/bin/bash", X_OK)) {
        printf("hostile bootstraps are written in bash. Install bash\n");
        skipped++;
        return 0;
    }
    strcpy(path, "/tmp/skill_test.XXXXXX");
    int fd = mkstemp(path);
    CHECK(fd >= 0 && dprintf(fd, "%s%s\n", serve_prelude, text) > 0 && !fchmod(fd, 0700));
    CHECK(!close(fd));
    return 1;
}

static void serve_unlink(const char *path)
{
    char more[64];
    unlink(path);
    snprintf(more, sizeof more, "%s.n", path), unlink(more);
    snprintf(more, sizeof more, "%s.env", path), unlink(more);
}

typedef struct {
    const char *script;
    const char *first, *second; /* parts of the two answers */
    const char *lines;          /* as serve_lines has them */
    int status, seconds, init_ms;
} serve_row;

/* Two events to a bootstrap that goes wrong. What is wrong on the first start is over later. */
static void serve_hostile(const serve_row *row)
{
    char path[64], event[64], name[128], limit[16];
    const char *args[] = {"--timeout", limit, "--event", event, "--event", event, NULL};
    const char *env[] = {name, "RUNNER", NULL};
    serve_child c;
    textbuf letters = {0};
    if (!serve_script(path, row->script))
        return;
    snprintf(limit, sizeof limit, "%d", row->seconds ? row->seconds : 60);
    snprintf(name, sizeof name, "BOOTSTRAP=%s", path);
    snprintf(event, sizeof event, "%s.n", path); /* a small file is a good event */
    FILE *f = fopen(event, "we");
    CHECK(f && fputs("0", f) >= 0 && !fclose(f));
    serve_spawn(&c, row->init_ms ? row->init_ms : SERVE_INIT_MS, args, env);
    int status = serve_ended(&c);
    serve_lines(&c.log, &letters);
    const char *first = strstr(c.said.ptr, row->first);
    b32 good = status == row->status && first && strstr(first + 1, row->second) &&
               !strcmp(letters.ptr, row->lines);
    CHECK_ROW(good, row->script);
    if (!good)
        fprintf(stderr, "status %d, lines %s\n%s%s", status, letters.ptr, c.said.ptr, c.log.ptr);
    serve_unlink(path);
    serve_free(&c), text_free(&letters);
}

static void test_e2e_serve_hostile(void)
{
    static const serve_row rows[] = {
        {"[ $n -lt 3 ] && exit 7; good", "Error: Runtime exited with error: exit status 7\"",
         "\"start\": 3", "ijSExSER", 1, 0, 0},
        {"next; [ $n = 1 ] && exit 3; answer response '{\"start\":2}'; good",
         "Error: Runtime exited with error: exit status 3\"", "\"start\": 2", "SEXSER", 1, 0, 0},
        {"next; [ $n = 1 ] && exit 0; answer response '{\"start\":2}'; good",
         "Error: Runtime exited without providing a reason\"", "\"start\": 2", "SEXSER", 1, 0, 0},
        {"next; [ $n = 1 ] && kill -SEGV $$; answer response '{\"start\":2}'; good",
         "Error: Runtime exited with error: signal: segmentation fault\"", "\"start\": 2", "SEXSER",
         1, 0, 0},
        {"next; [ $n = 1 ] && exec sleep 90; answer response '{\"start\":2}'; good",
         "Error: Task timed out after 2.00 seconds\"", "\"start\": 2", "SETSER", 1, 2, 0},
        /* answers, and asks for no other */
        {"[ $n = 2 ] && good; next; answer response '{\"a\":1}'; exec sleep 90", "\"a\": 1",
         "\"start\": 2", "SETSER", 1, 2, 0},
        {"[ $n = 2 ] && good; next; answer response '{\"a\":1}'; exit 4", "\"a\": 1",
         "\"start\": 2", "SEXSER", 1, 0, 0},
        /* does not wait for all of its answer to be read */
        {"[ $n = 2 ] && good; next\n"
         "(exec 3>&-; sleep 0.5; kill -CONT $PPID) & kill -STOP $PPID\n"
         "tell response '{\"a\":\"'\"$(printf %700000s)\"'\"}'; exit 4",
         "\"a\": \"", "\"start\": 2", "SEXSER", 1, 0, 0},
        /* answers twice */
        {"next; answer response '{\"a\":1}'; answer response '{\"b\":1}'\n"
         "[[ $status == *400* ]] || exit 5; good",
         "\"a\": 1", "\"start\": 1", "SENSER", 0, 0, 0},
        /* answers under another id */
        {"[ $n = 2 ] && good; next; id=0$id; answer response '{\"a\":1}'\n"
         "[[ $status == *400* ]] || exit 5; next",
         "Error: Task timed out after 2.00 seconds\"", "\"start\": 2", "SETSER", 1, 2, 0},
        {"next; answer error '{\"errorType\":\"Function.Bad\"}'; good",
         "\"errorType\": \"Function.Bad\"", "\"start\": 1", "SENSER", 1, 0, 0},
        /* never asks for the first event */
        {"[ $n = 1 ] && exec sleep 90; good", "\"start\": 2", "\"start\": 2", "ISERSER", 0, 0,
         1000},
        {"[ $n -lt 3 ] && exec sleep 90; good", "Error: Task timed out after 2.00 seconds\"",
         "\"start\": 3", "IJSEtSER", 1, 2, 1000},
        {"next; answer response 'no {json}'; good", "no {json}\n", "\"start\": 1", "SENSER", 0, 0,
         0},
        {"next; printf 'left open'; answer response '{\"a\":1}'; good", "\"a\": 1", "\"start\": 1",
         "S?ENSER", 0, 0, 0},
        /* two that wait at once */
        {"for k in 1 2; do { open; good; } & done; wait", "\"start\": 1", "\"start\": 1", "SENSER",
         0, 0, 0},
    };
    for (iz i = 0; i < countof(rows); i++)
        serve_hostile(&rows[i]);
}

/* What Lambda gives a function, and which of the user's variables get in. */
static void test_e2e_serve_environment(void)
{
    static const struct {
        const char *user[6];
        const char *there[12], *absent[5];
    } rows[] = {
        {{"LONELY=1", "HOME=/", NULL},
         {"\nAWS_LAMBDA_FUNCTION_NAME=london-travel\n", "\nAWS_LAMBDA_FUNCTION_VERSION=$LATEST\n",
          "\nAWS_LAMBDA_FUNCTION_MEMORY_SIZE=128\n", "\nAWS_REGION=eu-west-1\n", "\nTZ=:UTC\n",
          "\nAWS_LAMBDA_INITIALIZATION_TYPE=on-demand\n", "\n_HANDLER=bootstrap\n",
          "\nLAMBDA_TASK_ROOT=/var/task\n", "\nSkill__TflApiUrl=http://127.0.0.1:",
          "\nSkill__SkillApiUrl=http://127.0.0.1:", "\nAWS_LAMBDA_RUNTIME_API=127.0.0.1:"},
         {"LONELY", "\nHOME=", "MARKER", "\nSkill__SkillId="}},
        {{"TFL=live", "Skill__TflApplicationKey=mine", "AWS_REGION=eu-north-1",
          "AWS_LAMBDA_LOG_LEVEL=WARN", "AWS_LAMBDA_RUNTIME_API=192.0.2.1:1"},
         {"\nSkill__TflApplicationKey=mine\n", "\nAWS_REGION=eu-north-1\n",
          "\nAWS_LAMBDA_LOG_LEVEL=WARN\n", "\nSkill__SkillApiUrl=http://127.0.0.1:"},
         {"Skill__TflApiUrl", "192.0.2.1", "\nAWS_REGION=eu-west-1", "\nTFL="}},
        {{"TFL=live", "Skill__TflApiUrl=https://tfl.test/", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256"},
         {"\nSkill__TflApiUrl=https://tfl.test/\n", "\nAWS_LAMBDA_FUNCTION_MEMORY_SIZE=256\n"},
         {"\nSkill__TflApiUrl=http:", "\nAWS_LAMBDA_FUNCTION_MEMORY_SIZE=128\n"}},
    };
    const char *args[] = {"--timeout", "60", "--event", "/dev/null", NULL};
    char path[64], bootstrap[80];
    textbuf found = {0}, value = {0};
    serve_child c;
    if (!serve_script(path, "env >\"$0.env\"; next; answer response '{\"at\":'$deadline'}'; good"))
        return;
    for (iz i = 0; i < countof(rows); i++) {
        const char *env[9] = {bootstrap, "RUNNER"};
        memcpy(env + 2, rows[i].user, sizeof rows[i].user);
        snprintf(bootstrap, sizeof bootstrap, "BOOTSTRAP=%s", path);
        i64 before = (i64)time(NULL) * 1000;
        serve_spawn(&c, SERVE_INIT_MS, args, env);
        CHECK(serve_ended(&c) == 0);
        CHECK(peek_json(text_str(&c.said), "at", &value) == 'n');
        i64 at = atoll(value.ptr);
        CHECK(at >= before + 59000 && at <= (i64)time(NULL) * 1000 + 62000);
        CHECK(text_has(&c.log, i == 2 ? "Memory Size: 256 MB" : "Memory Size: 128 MB"));
        snprintf(bootstrap, sizeof bootstrap, "%s.env", path);
        FILE *f = fopen(bootstrap, "re");
        CHECK(f);
        text_clear(&found), text_puts(&found, "\n");
        for (int byte; f && (byte = fgetc(f)) != EOF;)
            text_add(&found, &(char){(char)byte}, 1);
        if (f)
            fclose(f);
        for (iz k = 0; k < 12 && rows[i].there[k]; k++)
            CHECK_ROW(text_has(&found, rows[i].there[k]), rows[i].there[k]);
        for (iz k = 0; k < 5 && rows[i].absent[k]; k++)
            CHECK_ROW(!text_has(&found, rows[i].absent[k]), rows[i].absent[k]);
        serve_free(&c);
    }
    serve_unlink(path);
    text_free(&found), text_free(&value);
}

/* One line that says what is wrong, status 2, and nothing is started. */
static void test_e2e_serve_usage(void)
{
    static const struct {
        const char *args[5], *env, *wanted;
    } rows[] = {
        {{"--sya", "victoria"}, NULL, "--sya is not known"},
        {{"90000"}, NULL, "90000 is no port"},
        {{"9000x"}, NULL, "9000x is no port"},
        {{""}, NULL, " is no port"},
        {{"9000", "9001"}, NULL, "9001 is not known"},
        {{"--event"}, NULL, "--event wants a value"},
        {{"--say", "victoria", "--say"}, NULL, "--say wants a value"},
        {{"--event", "/nowhere/at/all"}, NULL, "cannot read /nowhere/at/all: No such file"},
        {{"--event", "/"}, NULL, "cannot read /: Is a directory"},
        {{"--event", "/dev/zero"}, NULL, "/dev/zero is over 6 MiB"},
        {{"--timeout", "0"}, NULL, "--timeout wants 1 to 900 seconds, not 0"},
        {{"--timeout", "901"}, NULL, "not 901"},
        {{"--timeout", "7.5"}, NULL, "not 7.5"},
        {{"--timeout", "9999999999"}, NULL, "not 9999999999"},
        {{"--say", "victoria", "9000"}, NULL, "a port is of no use with --event or --say"},
        {{NULL}, "TFL=dead", "TFL is dead"},
        {{NULL}, "AWS_LAMBDA_FUNCTION_TIMEOUT=-1", "AWS_LAMBDA_FUNCTION_TIMEOUT is -1"},
        {{NULL}, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=64", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 64"},
        {{NULL}, "BOOTSTRAP=/nowhere/at/all", "cannot run /nowhere/at/all: No such file"},
    };
    for (iz i = 0; i < countof(rows); i++) {
        serve_child c;
        serve_spawn(&c, SERVE_INIT_MS, rows[i].args, (const char *[]){rows[i].env, NULL});
        int status = serve_ended(&c);
        CHECK_ROW(status == (i == countof(rows) - 1 ? 1 : 2), rows[i].wanted);
        CHECK_ROW(!c.said.len && !strncmp(c.log.ptr, "serve: ", 7), rows[i].wanted);
        CHECK_ROW(text_has(&c.log, rows[i].wanted) && !strchr(c.log.ptr, '\n')[1], c.log.ptr);
        serve_free(&c);
    }
}

static int serve_send(int port, const char *target, const char *headers, str body)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((u16)port)};
    textbuf t = {0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){60, 0}, sizeof(struct timeval));
    text_format(&t, "%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %td\r\n\r\n", target, headers,
                body.len);
    text_add(&t, body.ptr, body.len);
    CHECK(!connect(fd, (struct sockaddr *)&a, sizeof a));
    for (iz at = 0, n; at < t.len; at += n)
        if ((n = send(fd, t.ptr + at, (size_t)(t.len - at), MSG_NOSIGNAL)) <= 0)
            break;
    text_free(&t);
    return fd;
}

/* The whole answer; returns its status, 0 if there is none. */
static int serve_receive(int fd, textbuf *t)
{
    char chunk[4096];
    iz n, whole = -1;
    text_clear(t);
    while (t->len != whole && (n = recv(fd, chunk, sizeof chunk, 0)) > 0) {
        text_add(t, chunk, n);
        const char *end = strstr(t->ptr, "\r\n\r\n"), *size = strstr(t->ptr, "Content-Length: ");
        if (end)
            whole = end + 4 - t->ptr + (size && size < end ? atol(size + 16) : 0);
    }
    close(fd);
    return t->len == whole && !strncmp(t->ptr, "HTTP/1.1 ", 9) ? atoi(t->ptr + 9) : 0;
}

/* Waits until a file of its output has this; it is what stands behind it. */
static const char *serve_until(serve_child *c, FILE *f, const char *part)
{
    for (int i = 0; i < 6000; i++) {
        serve_read(f, &c->said);
        if (text_has(&c->said, part))
            return strstr(c->said.ptr, part) + strlen(part);
        usleep(10000);
    }
    check_at(__FILE__, __LINE__, 0, part);
    return "0";
}

static int serve_child_of(pid_t pid)
{
    char path[64];
    int child = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%d", &child) != 1)
        child = 0;
    if (f)
        fclose(f);
    return child;
}

/* AWS's invoke endpoint, as curl and the AWS command line use it. */
static void test_e2e_serve_endpoint(void)
{
    static const char place[] = "POST /2015-03-31/functions/function/invocations";
    static const struct {
        const char *line, *headers;
        int status;
    } others[] = {
        {"POST /2015-03-31/functions/london-travel/invocations?Qualifier=prod", "", 200},
        {place, "X-Amz-Invocation-Type: RequestResponse\r\n", 200},
        {place, "x-amz-invocation-type: Event\r\n", 202},
        {place, "X-Amz-Invocation-Type: DryRun\r\n", 204},
        {"GET /2015-03-31/functions/function/invocations", "", 405},
        {"POST /2015-03-31/functions/function/invocations/", "", 404},
        {"POST /2015-03-31/functions/invocations", "", 404},
        {"POST /", "", 404},
    };
    serve_child c;
    textbuf event = {0}, got = {0}, letters = {0};
    if (!e2e_ready())
        return;
    event_make(&event, &e2e_help);
    serve_spawn(&c, SERVE_INIT_MS, (const char *[]){"0", "--timeout", "60", NULL}, NULL);
    int port = atoi(serve_until(&c, c.out, "http://127.0.0.1:")), fds[3];
    for (iz i = 0; i < 3; i++)
        fds[i] = serve_send(port, place, "", i == 1 ? S("[]") : text_str(&event));
    for (iz i = 0; i < 3; i++) {
        CHECK(serve_receive(fds[i], &got) == 200);
        CHECK(text_has(&got, "X-Amz-Executed-Version: $LATEST\r\n"));
        CHECK(text_has(&got, "X-Amz-Function-Error: Unhandled\r\n") == (i == 1));
        CHECK(text_has(&got, i == 1 ? "\"errorType\":\"Function." : "\"outputSpeech\""));
    }
    for (iz i = 0; i < countof(others); i++)
        CHECK_ROW(
            serve_receive(serve_send(port, others[i].line, others[i].headers, text_str(&event)),
                          &got) == others[i].status,
            others[i].line);
    u8 *large = calloc(1, SERVE_EVENT_MAX + 1);
    CHECK(serve_receive(serve_send(port, place, "", (str){large, SERVE_EVENT_MAX + 1}), &got) ==
          413);
    free(large);

    int bootstrap = serve_child_of(c.pid); /* of a kernel with CONFIG_PROC_CHILDREN */
    if (bootstrap && !kill(bootstrap, SIGKILL))
        serve_until(&c, c.err, "serve: the bootstrap ended");
    CHECK(serve_receive(serve_send(port, place, "", text_str(&event)), &got) == 200);
    CHECK(text_has(&got, "\"outputSpeech\""));
    CHECK(serve_receive(serve_send(port, "POST /", "", S("")), &got) == 404); /* behind REPORT */
    bootstrap = serve_child_of(c.pid);
    CHECK(!kill(c.pid, SIGTERM));
    CHECK(serve_ended(&c) == 0);
    CHECK(!bootstrap || kill(bootstrap, 0)); /* nothing is left behind */
    CHECK(!strncmp(c.said.ptr, "curl -d '", 9) && !strchr(c.said.ptr, '\n')[1]);
    serve_lines(&c.log, &letters);
    iz ends = 0;
    for (iz i = 0; i < letters.len; i++)
        ends += !!strchr("RN", letters.ptr[i]);
    CHECK_ROW(ends == 7, letters.ptr);
    serve_free(&c);
    text_free(&event), text_free(&got), text_free(&letters);
}

/* Does it end, waited for or not? */
static b32 serve_gone(int pid)
{
    char path[64], state = 'R';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    for (int i = 0; i < 3000 && state != 'Z' && state != 'X'; i++) {
        FILE *f = fopen(path, "re");
        if (!f || fscanf(f, "%*d %*s %c", &state) != 1)
            state = 'X';
        if (f)
            fclose(f);
        usleep(10000);
    }
    return state == 'Z' || state == 'X';
}

/* A time-out while others wait: each is told, and the next is served by a new process. */
static void test_e2e_serve_queue(void)
{
    static const char place[] = "POST /2015-03-31/functions/function/invocations";
    char path[64], bootstrap[80];
    textbuf got = {0};
    serve_child c;
    if (!serve_script(path, "sleep 90 & echo $! >>\"$0.env\"\n"
                            "[ $n -gt 1 ] && good; next; sleep 91"))
        return;
    snprintf(bootstrap, sizeof bootstrap, "BOOTSTRAP=%s", path);
    serve_spawn(&c, SERVE_INIT_MS, (const char *[]){"0", NULL},
                (const char *[]){bootstrap, "RUNNER", "AWS_LAMBDA_FUNCTION_TIMEOUT=2", NULL});
    int port = atoi(serve_until(&c, c.out, "http://127.0.0.1:"));
    int first = serve_send(port, place, "", S("{}"));
    serve_until(&c, c.err, "START");
    int second = serve_send(port, place, "", S("{}"));
    CHECK(serve_receive(first, &got) == 200);
    CHECK(text_has(&got, "X-Amz-Function-Error: Unhandled\r\n"));
    CHECK(text_has(&got, "{\"errorType\":\"Sandbox.Timedout\",\"errorMessage\":\"RequestId: "));
    CHECK(text_has(&got, " Error: Task timed out after 2.00 seconds\"}"));
    CHECK(serve_receive(second, &got) == 200);
    CHECK(text_has(&got, "{\"start\":2}"));
    CHECK(serve_receive(serve_send(port, "POST /", "", S("")), &got) == 404); /* behind REPORT */
    CHECK(!kill(c.pid, SIGINT));
    CHECK(serve_ended(&c) == 0);
    CHECK(text_has(&c.log, "\tDuration: 2000.00 ms\t"));
    snprintf(bootstrap, sizeof bootstrap, "%s.env", path);
    FILE *f = fopen(bootstrap, "re");
    int left[2] = {0}; /* what the bootstraps started has ended, too */
    CHECK(f && fscanf(f, "%d%d", &left[0], &left[1]) == 2);
    CHECK(serve_gone(left[0]) && serve_gone(left[1]));
    if (f)
        fclose(f);
    serve_unlink(path);
    serve_free(&c), text_free(&got);
}

/* ---- real peers: other people's servers, and the skill through TLS ---- */

/* Makes, in the present directory, root (RSA-4096) and under it ica (P-384), under which stand leaf
 * (P-256), leaf-rsa and leaf-p384, all for localhost, wrong, for another host, and expired; unknown
 * has a root of its own. NAME.chain holds a leaf and its CA. */
static const char peers_pki[] =
    "set -e\n"
    "E='ecparam -genkey -noout -name prime256v1' D='ecparam -genkey -noout -name secp384r1'\n"
    "CA='basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign'\n"
    "mk() { # name, issuer, days, subjectAltName or '' for a CA, what makes its key\n"
    "  name=$1 by=\"-CA $2.pem -CAkey $2.key -force_pubkey $1.pub\" days=$3 san=$4\n"
    "  [ $1 != $2 ] || by=\"-key $1.key\"\n"
    "  shift 4; openssl $* >$name.key\n"
    "  openssl pkey -in $name.key -pubout -out $name.pub\n"
    "  if [ \"$san\" ]; then echo subjectAltName=$san; else echo \"$CA\"; fi >$name.ext\n"
    "  openssl x509 -new -subj /O=skill/CN=$name $by -set_serial 0x$(openssl rand -hex 8) \\\n"
    "    -days $days -extfile $name.ext -sha384 -out $name.pem\n"
    "  cat $name.pem >$name.chain; [ ! -f ica.pem ] || cat ica.pem >>$name.chain; }\n"
    "mk root root 30 '' genrsa -primes 4 4096\n"
    "mk other other 30 '' $E\n"
    "mk ica root 30 '' $D\n"
    "mk leaf ica 30 DNS:localhost,IP:127.0.0.1 $E\n"
    "mk leaf-rsa ica 30 DNS:localhost genrsa 2048\n"
    "mk leaf-p384 ica 30 DNS:localhost $D\n"
    "mk wrong ica 30 DNS:elsewhere.test,IP:127.0.0.2 $E\n"
    "mk expired ica -1 DNS:localhost $E\n"
    "mk unknown other 30 DNS:localhost $E\n"
    "yes y | tr -d '\\n' | head -c 200000 >big\n"
    "{ printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 200000\\r\\n\\r\\n'\n"
    "  cat big; } >reply\n";

/* $1 is skill_test. One server at a time, none of them for longer than a minute; what `get -v` says
 * must hold the text wanted. rekey sends KeyUpdates, which s_server does for lines that begin with
 * K (our own is asked for) or k: before the answer and inside it. */
static const char peers_script[] =
    "export SSL_CERT_FILE=$PWD/root.pem PATH=$PATH:/usr/sbin; get=$1 port=$2\n"
    "ports() { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; }\n"
    "try() { name=$1 want=$2; shift 2\n"
    "  \"$@\" >log 2>&1 </dev/null & pid=$!; k=0\n"
    "  while ! ports | grep -qi \":$(printf %04X $port) .* 0A \" && [ $k -lt 100 ]; do\n"
    "    sleep 0.05; k=$((k + 1)); done\n"
    "  timeout 20 $get get -v https://localhost:$port/reply ${twice:+$twice:$port/reply} \\\n"
    "    >out 2>err\n"
    "  if grep -q -- \"$want\" out err; then echo \"ok $name\"\n"
    "  else echo \"BAD $name\"; cat err out | head -c 3000; fi\n"
    "  kill $pid; wait $pid 2>/dev/null; port=$((port + 1)); }\n"
    "ossl() { timeout 60 openssl s_server -quiet -accept 127.0.0.1:$port -cert leaf.pem \\\n"
    "  -key leaf.key -cert_chain ica.pem -HTTP \"$@\"; }\n"
    "try openssl yyyy ossl\n"
    "try 'openssl AES-128' TLS_AES_128_GCM_SHA256 ossl -ciphersuites TLS_AES_128_GCM_SHA256\n"
    "try 'openssl AES-256' TLS_AES_256_GCM_SHA384 ossl -ciphersuites TLS_AES_256_GCM_SHA384\n"
    "try 'openssl ChaCha' TLS_CHACHA20_POLY1305_SHA256 ossl -ciphersuites "
    "TLS_CHACHA20_POLY1305_SHA256\n"
    "try 'openssl retry' 'secp256r1 by Hello' ossl -groups P-256\n"
    "try 'openssl retry AES-256' 'secp256r1 by Hello' ossl -groups P-256 -ciphersuites "
    "TLS_AES_256_GCM_SHA384\n"
    "try 'openssl asks' yyyy ossl -verify 3 -CAfile root.pem\n"
    "try 'openssl asks, retry' yyyy ossl -verify 3 -groups P-256\n"
    "try 'openssl small records' yyyy ossl -max_send_frag 512 -split_send_frag 512\n"
    "try 'openssl padding' yyyy ossl -record_padding 4000\n"
    "try 'openssl 20 tickets' yyyy ossl -num_tickets 20\n"
    "try 'openssl without middlebox mode' yyyy ossl -no_middlebox\n"
    "rekey() { rm -f f; mkfifo f\n"
    "  timeout 60 openssl s_server -accept 127.0.0.1:$port -cert leaf.pem \\\n"
    "    -key leaf.key -cert_chain ica.pem -naccept 1 -msg <f >said &\n"
    "  { k=0; while ! grep -q GET said && [ $k -lt 100 ]; do sleep 0.05; k=$((k + 1)); done\n"
    "    echo K; sleep 0.1\n"
    "    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\n'; sleep 0.1\n"
    "    echo k; sleep 0.1; echo K; sleep 0.1; printf yyyy; sleep 0.1; echo K; sleep 0.1\n"
    "    printf zzzz; sleep 0.3; } >f; kill $!; wait $! 2>/dev/null; }\n"
    "try 'openssl KeyUpdate' yyyyzzzz rekey\n"
    "[ $(grep -c '>>>.* KeyUpdate' said) = 4 ] && [ $(grep -c '<<<.* KeyUpdate' said) = 3 ] &&\n"
    "  echo 'ok openssl, as many KeyUpdates as asked for' || echo \"BAD KeyUpdates $(cat said)\"\n"
    "twice=https://localhost\n"
    "try 'openssl resumes' 'resumed by' ossl\n"
    "try 'openssl resumes, AES-256' 'resumed by' ossl -ciphersuites TLS_AES_256_GCM_SHA384\n"
    "try 'openssl resumes, retry' 'resumed by' ossl -groups P-256\n"
    "try 'openssl resumes, stateful' 'resumed by' ossl -no_ticket\n"
    "try 'openssl resumes, asks' 'resumed by' ossl -verify 3 -CAfile root.pem\n"
    "twice=\n"
    "try 'openssl TLS 1.2' TlsVersion ossl -tls1_2\n"
    "try 'openssl P-384 group' TlsNothingShared ossl -groups P-384\n"
    "for leaf in leaf-rsa leaf-p384; do try \"openssl $leaf\" yyyy ossl -cert $leaf.pem -key "
    "$leaf.key; done\n"
    "for s in 384 512; do try \"openssl signs by RSA-PSS with SHA-$s\" yyyy ossl -cert "
    "leaf-rsa.pem "
    "-key leaf-rsa.key -sigalgs rsa_pss_rsae_sha$s; done\n"
    "try 'wrong host' CertNameMismatch ossl -cert wrong.pem -key wrong.key\n"
    "try 'expired' CertExpired ossl -cert expired.pem -key expired.key\n"
    "try 'unknown root' CertIssuerUnknown ossl -cert unknown.pem -key unknown.key\n"
    "gnu() { timeout 60 gnutls-serv --port $port --http --x509certfile leaf.chain \\\n"
    "  --x509keyfile leaf.key \"$@\"; }\n"
    "p=NORMAL:-VERS-ALL:+VERS-TLS1.3 n=--disable-client-cert\n"
    "try gnutls 'status 200' gnu $n --priority $p\n"
    "try 'gnutls retry' 'secp256r1 by Hello' gnu $n --priority $p:-GROUP-ALL:+GROUP-SECP256R1\n"
    "try 'gnutls asks' 'status 200' gnu --x509cafile root.pem --priority $p\n"
    "try 'gnutls small records' 'status 200' gnu $n --priority $p --recordsize 512\n"
    "try 'gnutls ChaCha' TLS_CHACHA20_POLY1305_SHA256 gnu $n --priority "
    "$p:-CIPHER-ALL:+CHACHA20-POLY1305\n"
    "try 'gnutls AES-256' TLS_AES_256_GCM_SHA384 gnu $n --priority $p:-CIPHER-ALL:+AES-256-GCM\n"
    "twice=https://localhost\n"
    "try 'gnutls resumes' 'resumed by' gnu $n --priority $p\n"
    "try 'gnutls resumes, retry' 'resumed by' gnu $n --priority $p:-GROUP-ALL:+GROUP-SECP256R1\n"
    "twice=\n"
    "try 'gnutls TLS 1.2' TlsNothingShared gnu $n --priority NORMAL:-VERS-ALL:+VERS-TLS1.2\n"
    "ngx() { cat >nginx.conf <<END\n"
    "daemon off; master_process off; pid $PWD/nginx.pid; error_log $PWD/nginx.log; events {}\n"
    "http { access_log off; client_body_temp_path $PWD/t; proxy_temp_path $PWD/t;\n"
    "fastcgi_temp_path $PWD/t; uwsgi_temp_path $PWD/t; scgi_temp_path $PWD/t;\n"
    "server { listen 127.0.0.1:$port ssl; ssl_certificate leaf.chain; ssl_certificate_key "
    "leaf.key;\n"
    "ssl_protocols TLSv1.3; $1 root $PWD; } }\n"
    "END\n"
    "timeout 60 nginx -p $PWD -c $PWD/nginx.conf; }\n"
    "try nginx yyyy ngx\n"
    "try 'nginx retry' 'secp256r1 by Hello' ngx 'ssl_ecdh_curve prime256v1;'\n"
    "try 'nginx asks' yyyy ngx 'ssl_verify_client optional; ssl_client_certificate root.pem;'\n"
    "try 'nginx small records' yyyy ngx 'ssl_buffer_size 1k;'\n"
    "twice=https://localhost\n"
    "try 'nginx resumes' 'resumed by' ngx\n"
    "try 'nginx resumes, AES-256' 'resumed by' ngx \\\n"
    "  'ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;'\n"
    "cat leaf.chain leaf.key >all.pem\n"
    "hap() { cat >hap.cfg <<END\n"
    "global\n tune.ssl.maxrecord 1024\ndefaults\n mode http\n timeout client 5s\n timeout server "
    "5s\n timeout connect 5s\n"
    "frontend f\n bind 127.0.0.1:$port ssl crt all.pem ssl-min-ver TLSv1.3 $1\n"
    " http-request return status 200 content-type text/plain string yyyyyyyy\n"
    "END\n"
    "timeout 60 haproxy -f hap.cfg; }\n"
    "command -v haproxy >/dev/null || exit 0\n"
    "try haproxy yyyy hap 'alpn http/1.1'\n"
    "try 'haproxy retry' 'secp256r1 by Hello' hap 'curves P-256'\n"
    "try 'haproxy resumes' 'resumed by' hap\n"
    "twice=\n"
    "try 'haproxy asks' yyyy hap 'verify optional ca-file root.pem'\n";

/* A directory with the certificates, or false and a skip that says what to install. */
static b32 peers_open(char dir[64])
{
    char text[200];
    snprintf(dir, 64, "/tmp/skill_peers.XXXXXX");
    if (system("PATH=$PATH:/usr/sbin; for c in openssl nginx gnutls-serv; do command -v $c; done "
               ">/dev/null")) {
        printf("to install: openssl nginx-light gnutls-bin\n");
        skipped++;
        return 0;
    }
    CHECK(mkdtemp(dir));
    snprintf(text, sizeof text, "%s/make", dir);
    FILE *f = fopen(text, "w");
    fputs(peers_pki, f);
    fclose(f);
    snprintf(text, sizeof text, "%s/try", dir);
    f = fopen(text, "w");
    fputs(peers_script, f);
    fclose(f);
    snprintf(text, sizeof text, "cd %s && sh make >log 2>&1 || { cat log; exit 1; }", dir);
    b32 good = !system(text);
    CHECK(good);
    return good;
}

static void peers_close(const char *dir)
{
    char text[200];
    snprintf(text, sizeof text, "rm -rf %s", dir);
    CHECK(!system(text));
}

/* How to start this program again. Under qemu RUNNER names it, on whose machine shells cannot start
 * what it runs. */
static const char *peers_self(void)
{
    static char self[500];
    const char *runner = getenv("RUNNER");
    int at = 0;
#ifdef __aarch64__
    if (runner && *runner)
        at = snprintf(self, 100, "%.90s ", runner);
#endif
    (void)runner;
    ssize_t n = readlink("/proc/self/exe", self + at, sizeof self - 101);
    self[at + (n > 0 ? n : 0)] = 0;
    return self;
}

static void test_peers(void)
{
    char dir[64], text[1000];
    if (!peers_open(dir))
        return;
    snprintf(text, sizeof text, "cd %s && sh try '%s' %d 2>/dev/null", dir, peers_self(),
             20000 + (int)getpid() % 10000); /* below the ports that clients are given */
    FILE *f = popen(text, "r");
    while (f && fgets(text, sizeof text, f)) {
        passed += !strncmp(text, "ok ", 3);
        if (strncmp(text, "ok ", 3))
            check_at(__FILE__, __LINE__, 0, text);
    }
    CHECK(f && !pclose(f) && passed > 25);
    peers_close(dir);
}

static void test_dns_real_server(void)
{
    char command[600];
    snprintf(command, sizeof command, "%s get -v https://%%s:8443/", peers_self());
    dns_real_server(command);
    if (skipped)
        printf("to install: dnsmasq-base iproute2 (and root or user namespaces)\n");
}

/* ---- the skill through TLS: nginx before the stand-ins ---- */

enum { HTTPS_TFL, HTTPS_PREFS, HTTPS_WRONG, HTTPS_EXPIRED, HTTPS_UNKNOWN, HTTPS_PORTS };

typedef struct {
    char dir[64];
    pid_t pid; /* of nginx */
    int port[HTTPS_PORTS];
} https_world;

static void https_start(https_world *h, const world *w)
{
    static const char names[HTTPS_PORTS][8] = {"leaf", "leaf", "wrong", "expired", "unknown"};
    char path[100];
    snprintf(path, sizeof path, "%s/proxy.conf", h->dir);
    FILE *f = fopen(path, "w");
    fprintf(f,
            "daemon off; master_process off; pid %s/pid; error_log %s/nginx.log; events {}\n"
            "http { log_format how '$ssl_session_reused'; access_log %s/how how;\n"
            "client_body_temp_path t; proxy_temp_path t; keepalive_requests 2;\n"
            "fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t; ssl_protocols TLSv1.3;\n"
            "proxy_redirect off; proxy_http_version 1.1; proxy_set_header Host $http_host;\n"
            "proxy_set_header Connection \"\";\n",
            h->dir, h->dir, h->dir);
    for (int i = 0; i < HTTPS_PORTS; i++)
        fprintf(f,
                "server { listen 127.0.0.1:%d ssl; ssl_certificate %s.chain;\n"
                "ssl_certificate_key %s.key; location / { proxy_pass http://127.0.0.1:%d; } }\n",
                h->port[i], names[i], names[i], w->port[i == HTTPS_PREFS ? W_PREFS : W_TFL]);
    fputs("}\n", f);
    fclose(f);
    pid_t parent = getpid();
    h->pid = fork();
    if (!h->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(126);
        setenv("PATH", "/usr/sbin:/usr/bin:/bin", 1);
        execlp("nginx", "nginx", "-p", h->dir, "-c", path, "-e", "/dev/null", (char *)0);
        _exit(127);
    }
    for (int tries = 0; tries < 100; tries++) {
        address to = {.ip = {127, 0, 0, 1}, .port = (u16)h->port[HTTPS_UNKNOWN]};
        i32 fd;
        if (!os_connect(&fd, &to, 0, os_monotonic() + SECOND)) {
            os_close(fd);
            return;
        }
        usleep(20000);
    }
    check_at(__FILE__, __LINE__, 0, "nginx listens");
}

static void https_stop(https_world *h)
{
    kill(h->pid, SIGKILL);
    waitpid(h->pid, 0, 0);
}

static void https_open(https_world *h, world *w)
{
    char text[100];
    int fd[HTTPS_PORTS];
    script.on = 0;
    world_open(w);
    for (int i = 0; i < HTTPS_PORTS; i++) {
        fd[i] = world_listen(0);
        h->port[i] = world_port(fd[i]);
    }
    for (int i = 0; i < HTTPS_PORTS; i++)
        close(fd[i]);
    https_start(h, w);
    snprintf(text, sizeof text, "SSL_CERT_FILE=%s/root.pem", h->dir);
    world_env(w, text);
    world_env_format(w, "Skill__TflApiUrl=https://localhost:%d/", h->port[HTTPS_TFL]);
    world_env_format(w, "Skill__SkillApiUrl=https://localhost:%d", h->port[HTTPS_PREFS]);
}

/* How many requests came by a connection that was resumed ('r') or not ('.'). */
static int https_count(const https_world *h, char how)
{
    char path[100];
    int n = 0;
    snprintf(path, sizeof path, "%s/how", h->dir);
    FILE *f = fopen(path, "r");
    for (int c; f && (c = fgetc(f)) != EOF;)
        n += c == how;
    if (f)
        fclose(f);
    return n;
}

/* The log tells of each connection how it came about, and of a handshake how long it took. */
static void https_check_log(const world *w)
{
    static const char how[][24] = {"\"connection\":\"full\"", "\"connection\":\"resumed\"",
                                   "\"connection\":\"kept\""};
    textbuf number = {0};
    int count[countof(how)] = {0};
    for (const char *at = w->log.ptr; *at; at += strcspn(at, "\n") + 1) {
        str entry = {(const u8 *)at, (iz)strcspn(at, "\n")};
        b32 shaken = unit_has(entry, how[0]) || unit_has(entry, how[1]);
        for (iz i = 0; i < countof(how); i++)
            count[i] += unit_has(entry, how[i]);
        CHECK((peek_json(entry, "HandshakeDuration", &number) == 'n') == shaken);
        CHECK(!shaken || strtod(number.ptr, NULL) > 0);
        CHECK((peek_json(entry, "stages.handshake", &number) == 'n') == shaken);
    }
    CHECK(count[0] && count[1] && count[2]);
    text_free(&number);
}

/* The three intents by real connections with a real chain, kept and replaced: the server closes
 * each after two requests. */
static void e2e_https_good(https_world *h)
{
    world w;
    textbuf heard = {0};
    https_open(h, &w);
    world_start(&w);
    for (int round = 0; round < 4; round++) {
        CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && text_has(&heard, "good service"));
        CHECK(e2e_ask(&w, &e2e_disruption, &heard) == 'r');
        CHECK(text_has(&heard, "a shortage of trains"));
        CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
        if (round == 1 || round == 2) { /* the server goes and comes back: the connections died */
            https_stop(h);
            https_start(h, &w);
        }
    }
    CHECK(!text_has(&w.log, "ERROR"));
    CHECK(https_count(h, 'r') >= 3 && https_count(h, '.') >= 3); /* resumed, and not */
    CHECK(world_idle(&w, 9000));
    https_check_log(&w);
    https_stop(h);
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(text_has(&w.log, "ConnectRefused"));
    e2e_close(&w);
    text_free(&heard);
}

/* Certificates that must not be taken: an apology, the reason in the log, and nothing sent. */
static void e2e_https_refused(https_world *h, int which, const char *roots, const char *error)
{
    world w;
    textbuf heard = {0};
    https_open(h, &w);
    world_env_format(&w, "Skill__TflApiUrl=https://localhost:%d/", h->port[which]);
    world_env_format(&w, "Skill__SkillApiUrl=https://localhost:%d/", h->port[which]);
    if (roots)
        world_env(&w, roots);
    world_start(&w);
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(world_count(&w, W_TFL, "/", NULL) == 0 && world_count(&w, W_PREFS, "/", NULL) == 0);
    CHECK(text_has(&w.log, error) && text_has(&w.log, "tries=1") && !text_has(&w.log, "tries=2"));
    https_stop(h);
    e2e_close(&w);
    text_free(&heard);
}

/* Redirects: to another https origin without the token, home with it, never to http, never on and
 * on. */
static void e2e_https_redirects(https_world *h)
{
    world w;
    textbuf heard = {0}, token = {0};
    static const int statuses[] = {301, 302, 303, 307, 308};
    const world_request *q;
    https_open(h, &w);
    world_start(&w);
    char there[200], home[200], plain[200], body[] = "moved";
    snprintf(there, sizeof there, "Location: https://127.0.0.1:%d/api/preferences#x\r\n",
             h->port[HTTPS_PREFS]);
    snprintf(home, sizeof home, "Location: /api/preferences#y\r\n");
    snprintf(plain, sizeof plain, "Location: http://127.0.0.1:%d/api/preferences\r\n",
             w.port[W_PREFS]);
    for (iz i = 0; i < countof(statuses); i++) {
        world_forget(&w);
        world_plan(&w, W_PREFS, "/api/",
                   (world_reply){.status = statuses[i], .body = BODY(body), .headers = home});
        CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
        CHECK(world_count(&w, W_PREFS, "/api/preferences", &q) == 2);
        CHECK(head_value(&q->head, "Authorization", &token) && text_has(&token, world_token));
        CHECK(head_value(&q->head, "X-Amzn-Trace-Id", &token) && text_has(&token, "Root=1-5bef"));
        world_forget(&w);
        world_plan(&w, W_PREFS, "/api/",
                   (world_reply){.status = statuses[i], .body = BODY(body), .headers = there});
        CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r');
        CHECK(world_count(&w, W_PREFS, "/api/preferences", &q) == 2);
        CHECK(!head_value(&q->head, "Authorization", &token)); /* the last of the two */
        CHECK(!head_value(&q->head, "X-Amzn-Trace-Id", &token));
    }
    world_forget(&w);
    world_plan(&w, W_PREFS, "/api/", (world_reply){.status = 302, .headers = plain});
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(world_count(&w, W_PREFS, "/api/", NULL) == 1 && text_has(&w.log, "UrlInsecure"));
    world_forget(&w);
    for (int i = 0; i < 4; i++)
        world_plan(&w, W_PREFS, "/api/", (world_reply){.status = 302, .headers = home});
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(world_count(&w, W_PREFS, "/api/", NULL) == 4 && text_has(&w.log, "HttpRedirects"));
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
    https_stop(h);
    e2e_close(&w);
    text_free(&heard), text_free(&token);
}

static void test_e2e_https(void)
{
    https_world h;
    if (!e2e_ready() || !peers_open(h.dir))
        return;
    e2e_https_good(&h);
    e2e_https_refused(&h, HTTPS_WRONG, 0, "CertNameMismatch");
    e2e_https_refused(&h, HTTPS_EXPIRED, 0, "CertExpired");
    e2e_https_refused(&h, HTTPS_UNKNOWN, 0, "CertIssuerUnknown");
    e2e_https_refused(&h, HTTPS_TFL, "SSL_CERT_FILE=/nowhere/at/all.pem", "RootsMissing");
    e2e_https_redirects(&h);
    peers_close(h.dir);
}

/* ---- the voice model: what is published about its form, and there and back through the skill ----
 *
 * From Amazon's pages "Interaction Model Schema", "Skill Manifest Schema", "Create Intents,
 * Utterances, and Slots", "Choose the Invocation Name for a Custom Skill" and "Entity Resolution",
 * and from the service's own errors InvalidCharInSamples, InvalidIntentName, InvalidSlotTypeName
 * and "Slot value length exceeds the limit of 140 characters". A checker notes each breach in a
 * text of faults, so that broken models can show that it sees them.
 */

enum {
    VOICE_VALUE_MAX = 140,
    VOICE_MODEL_MAX = 1500 * 1000, /* bytes of an interaction model */
};

/* A member that the schema knows: its path with # for an index, its kind as peek_json says it, and
 * whether it must be there where its parent is. */
typedef struct {
    const char *path;
    char kind;
    b32 required;
} voice_member;

#define LM "interactionModel.languageModel"

static const voice_member voice_model_members[] = {
    {"interactionModel", '{', 1},
    {LM, '{', 1},
    {LM ".invocationName", 's', 1},
    {LM ".intents", '[', 1},
    {LM ".intents.#", '{', 0},
    {LM ".intents.#.name", 's', 1},
    {LM ".intents.#.slots", '[', 0},
    {LM ".intents.#.slots.#", '{', 0},
    {LM ".intents.#.slots.#.name", 's', 1},
    {LM ".intents.#.slots.#.type", 's', 1},
    {LM ".intents.#.samples", '[', 1},
    {LM ".intents.#.samples.#", 's', 0},
    {LM ".types", '[', 1},
    {LM ".types.#", '{', 0},
    {LM ".types.#.name", 's', 1},
    {LM ".types.#.values", '[', 1},
    {LM ".types.#.values.#", '{', 0},
    {LM ".types.#.values.#.id", 's', 1},
    {LM ".types.#.values.#.name", '{', 1},
    {LM ".types.#.values.#.name.value", 's', 1},
    {LM ".types.#.values.#.name.synonyms", '[', 1},
    {LM ".types.#.values.#.name.synonyms.#", 's', 0},
};

#define PUB "manifest.publishingInformation"
#define PRIV "manifest.privacyAndCompliance"

static const voice_member voice_manifest_members[] = {
    {"manifest", '{', 1},
    {"manifest.manifestVersion", 's', 1},
    {PUB, '{', 1},
    {PUB ".locales", '{', 1},
    {PUB ".locales.en-GB", '{', 1},
    {PUB ".locales.en-GB.name", 's', 1},
    {PUB ".locales.en-GB.summary", 's', 1},
    {PUB ".locales.en-GB.description", 's', 1},
    {PUB ".locales.en-GB.examplePhrases", '[', 1},
    {PUB ".locales.en-GB.examplePhrases.#", 's', 0},
    {PUB ".locales.en-GB.keywords", '[', 1},
    {PUB ".locales.en-GB.keywords.#", 's', 0},
    {PUB ".isAvailableWorldwide", 'f', 1}, /* if it were true, there would be no countries */
    {PUB ".distributionCountries", '[', 1},
    {PUB ".distributionCountries.#", 's', 0},
    {PUB ".distributionMode", 's', 1},
    {PUB ".category", 's', 1},
    {PUB ".testingInstructions", 's', 1},
    {"manifest.apis", '{', 1},
    {"manifest.apis.custom", '{', 1},
    {"manifest.apis.custom.endpoint", '{', 1},
    {"manifest.apis.custom.endpoint.uri", 's', 1},
    {"manifest.apis.custom.interfaces", '[', 1},
    {"manifest.permissions", '[', 0},
    {PRIV, '{', 1},
    {PRIV ".allowsPurchases", 'f', 1},
    {PRIV ".usesPersonalInfo", 't', 1},
    {PRIV ".isChildDirected", 'f', 1},
    {PRIV ".isExportCompliant", 't', 1},
    {PRIV ".containsAds", 'f', 1},
    {PRIV ".locales", '{', 1},
    {PRIV ".locales.en-GB", '{', 1},
    {PRIV ".locales.en-GB.privacyPolicyUrl", 's', 1},
    {PRIV ".locales.en-GB.termsOfUseUrl", 's', 1},
};

static void voice_fault(textbuf *faults, const char *what, const char *which)
{
    text_format(faults, "%s: %s\n", what, which);
}

/* Are the members that must be in this object among those seen, each written once as "|name|"? */
static void voice_check_members(const voice_member *rows, iz count, const char *path,
                                const textbuf *members, textbuf *faults)
{
    size_t n = strlen(path);
    for (iz i = 0; i < count; i++) {
        const char *name = rows[i].path + n + (n > 0);
        char wanted[80];
        if (!rows[i].required || strncmp(rows[i].path, path, n) || (n && rows[i].path[n] != '.') ||
            strchr(name, '.'))
            continue;
        snprintf(wanted, sizeof wanted, "|%s|", name);
        if (!text_has(members, wanted))
            voice_fault(faults, "missing", rows[i].path);
    }
}

/* Walks a document by the schema: every value must be of a known path and kind. */
static void voice_check_value(peeker *p, const voice_member *rows, iz count, const char *path,
                              textbuf *faults)
{
    textbuf below = {0}, name = {0}, members = {0};
    iz i = 0;
    peek_space(p);
    int c = p->at < p->end ? *p->at : 0;
    char kind = c == '"' ? 's' : c == 'n' ? '0' : (char)c;
    while (*path && i < count && (strcmp(rows[i].path, path) || rows[i].kind != kind))
        i++;
    if (i == count)
        voice_fault(faults, "not in the schema", path);
    if (c != '{' && c != '[') {
        peek_value(p, NULL, &name, 0);
        text_free(&name);
        return;
    }
    const char *end = c == '{' ? "}" : "]";
    p->at++, peek_space(p);
    for (b32 done = peek_take(p, end); !done && !p->bad;) {
        text_clear(&below), text_clear(&name);
        text_puts(&name, "#");
        if (c == '{')
            peek_space(p), peek_string(p, &name), peek_space(p), p->bad |= !peek_take(p, ":");
        text_format(&below, "%s%s%s", path, *path ? "." : "", name.ptr);
        text_format(&name, "|");
        if (c == '{' && members.len && text_has(&members, name.ptr))
            voice_fault(faults, "twice", below.ptr);
        text_format(&members, "|%s", name.ptr);
        voice_check_value(p, rows, count, below.ptr, faults);
        peek_space(p);
        done = peek_take(p, end);
        p->bad |= !done && !peek_take(p, ",");
    }
    if (c == '{')
        voice_check_members(rows, count, path, &members, faults);
    text_free(&below), text_free(&name), text_free(&members);
}

static void voice_check_schema(str doc, const voice_member *rows, iz count, textbuf *faults)
{
    peeker p = {doc.ptr, doc.ptr + doc.len, 0};
    textbuf none = {0};
    if (peek_json(doc, "", &none) != '{')
        voice_fault(faults, "not strict JSON", "");
    else
        voice_check_value(&p, rows, count, "", faults);
    for (iz i = 0; i < doc.len; i++)
        if (doc.ptr[i] >= 0x80 || (doc.ptr[i] < ' ' && doc.ptr[i] != '\n'))
            voice_fault(faults, "not ASCII", "");
    text_free(&none);
}

/* The strings of an array of the document, one a line; gives their number. */
static iz voice_strings(str doc, const char *path, textbuf *lines)
{
    textbuf array = {0}, item = {0};
    iz n = 0;
    text_clear(lines);
    if (peek_json(doc, path, &array) == '[') {
        peeker p = {(u8 *)array.ptr + 1, (u8 *)array.ptr + array.len, 0};
        for (peek_space(&p); p.at < p.end && *p.at == '"'; n++) {
            peek_string(&p, &item);
            text_format(lines, "%s\n", item.ptr);
            peek_space(&p), peek_take(&p, ","), peek_space(&p);
        }
    }
    text_free(&array), text_free(&item);
    return n;
}

/* A string of the document by a path with one number in it. */
static b32 voice_string(str doc, const char *path, iz i, textbuf *out)
{
    char at[120];
    unit_print(at, sizeof at, path, i);
    return peek_json(doc, at, out) == 's';
}

static b32 voice_is_name(const char *name, const char *more)
{
    b32 good = (*name >= 'A' && *name <= 'Z') || (*name >= 'a' && *name <= 'z');
    for (; *name && good; name++)
        good =
            (*name >= 'A' && *name <= 'Z') || (*name >= 'a' && *name <= 'z') || strchr(more, *name);
    return good;
}

/* Words that no invocation name may hold: wake words, launch and connecting words, articles. */
static void voice_check_invocation(str doc, textbuf *faults)
{
    static const char refused[] =
        " alexa amazon echo computer ziggy skill app launch ask tell load begin enable open start "
        "play run resume use talk to from in using with by about for if whether of and that the a "
        "an ";
    textbuf name = {0};
    char word[64];
    iz words = 0;
    peek_json(doc, LM ".invocationName", &name);
    for (char *c = name.ptr; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz '.", *c))
            voice_fault(faults, "invocation name's character", name.ptr);
    for (const char *at = name.ptr; *at; words++) {
        iz n = (iz)strcspn(at, " ");
        snprintf(word, sizeof word, " %.*s ", (int)n, at);
        if (!n || strstr(refused, word))
            voice_fault(faults, "invocation name's word", word);
        at += n + (at[n] == ' ' && at[n + 1]);
    }
    if (words < 2 || name.len > 50)
        voice_fault(faults, "invocation name's length", name.ptr);
    text_free(&name);
}

/* The intents and the slot: what may be their names, and that they are those of the deployments
 * that there are (github.com/martincostello/alexa-london-travel, static/interaction-model.doc),
 * with FallbackIntent and RepeatIntent. The skill may know no other and must know all. */
static void voice_check_intents(str doc, textbuf *faults)
{
    static const char wanted[] =
        "|StatusIntent|DisruptionIntent|CommuteIntent|AMAZON.HelpIntent|AMAZON.StopIntent"
        "|AMAZON.CancelIntent|AMAZON.NavigateHomeIntent|AMAZON.FallbackIntent|AMAZON.RepeatIntent|";
    textbuf name = {0}, slot = {0}, type = {0}, members = {0};
    iz n = 0;
    text_puts(&members, "|");
    for (; voice_string(doc, LM ".intents.%ld.name", n, &name); n++) {
        b32 slots = voice_string(doc, LM ".intents.%ld.slots.0.name", n, &slot);
        voice_string(doc, LM ".intents.%ld.slots.0.type", n, &type);
        if (!voice_is_name(name.ptr, strncmp(name.ptr, "AMAZON.", 7) ? "_" : "_."))
            voice_fault(faults, "intent's character", name.ptr);
        if (slots != !strcmp(name.ptr, "StatusIntent") ||
            (slots && (strcmp(slot.ptr, "LINE") || strcmp(type.ptr, "LINE_NAME"))))
            voice_fault(faults, "slot", name.ptr);
        if (str_word(text_str(&name), intent_names()) < 0)
            voice_fault(faults, "intent that the skill does not know", name.ptr);
        text_format(&name, "|");
        if (text_has(&members, name.ptr))
            voice_fault(faults, "intent twice", name.ptr);
        text_puts(&members, name.ptr);
        if (!strstr(wanted, name.ptr))
            voice_fault(faults, "intent that is not expected", name.ptr);
    }
    if (members.len != (iz)strlen(wanted))
        voice_fault(faults, "number of intents", "");
    if (!voice_string(doc, LM ".types.%ld.name", 0, &name) || !voice_is_name(name.ptr, "_") ||
        strcmp(name.ptr, "LINE_NAME") || voice_string(doc, LM ".types.%ld.name", 1, &name))
        voice_fault(faults, "type", name.ptr);
    for (const char *at = intent_names(); *at; at += strcspn(at, " "), at += *at == ' ') {
        unit_print(name.ptr, (size_t)name.cap, "|%.*s|", (int)strcspn(at, " "), at);
        if (!text_has(&members, name.ptr))
            voice_fault(faults, "intent of the skill that is missing", name.ptr);
    }
    text_free(&name), text_free(&slot), text_free(&type), text_free(&members);
}

/* A name as it sounds: lower case, no stops, "&" as "and", a hyphen as a blank. */
static void voice_sound(char *to, size_t cap, str name)
{
    size_t n = 0;
    for (iz i = 0; i < name.len && n + 4 < cap; i++) {
        u8 c = name.ptr[i];
        if (c == '&')
            n += (size_t)sprintf(to + n, "and");
        else if (c != '.')
            to[n++] = c == '-' ? ' ' : (char)(c | (c >= 'A' && c <= 'Z' ? 0x20 : 0));
    }
    to[n] = 0;
}

/* All that a line may be called, as "sound|id" lines. */
static void voice_names(str doc, textbuf *names, textbuf *faults)
{
    textbuf values = {0}, id = {0}, value = {0}, synonyms = {0};
    char path[40], sound[200], raw[200];
    text_clear(names);
    peek_json(doc, LM ".types.0.values", &values);
    doc = text_str(&values);
    for (iz i = 0; voice_string(doc, "%ld.id", i, &id); i++) {
        voice_string(doc, "%ld.name.value", i, &value);
        unit_print(path, sizeof path, "%ld.name.synonyms", i);
        voice_strings(doc, path, &synonyms);
        text_format(&value, "\n%s", synonyms.ptr);
        for (str rest = text_str(&value); rest.len;) {
            str name = str_cut(&rest, '\n');
            voice_sound(sound, sizeof sound, name);
            text_format(names, "%s|%s\n", sound, id.ptr);
            snprintf(raw, sizeof raw, "%.*s", (int)name.len, name.ptr);
            for (char *c = raw; *c; c++)
                if (!strchr(" '.-", *c) && !is_alnum((u8)*c))
                    voice_fault(faults, "name's character", raw);
            if (!name.len || name.len > VOICE_VALUE_MAX || strpbrk(raw, "0123456789"))
                voice_fault(faults, "name's length or digits", raw);
        }
    }
    text_free(&values), text_free(&id), text_free(&value), text_free(&synonyms);
}

/* Is a line called that: the one with this id, or any? */
static b32 voice_names_have(str names, str sound, str id)
{
    while (names.len) {
        str row = str_cut(&names, '\n'), called = str_cut(&row, '|');
        if (str_eq(called, sound) && (!id.ptr || str_eq(row, id)))
            return 1;
    }
    return 0;
}

/* Is this what somebody says who says the phrase, with a line's name for the slot? */
static b32 voice_utters(str phrase, str names, str said)
{
    char sound[200];
    str tail = phrase, head = str_cut(&tail, '{');
    if (head.len == phrase.len)
        return str_eq_nocase(phrase, said);
    str_cut(&tail, '}');
    if (said.len <= head.len + tail.len || !str_eq_nocase(str_span(said, 0, head.len), head) ||
        !str_eq_nocase(str_from(said, said.len - tail.len), tail))
        return 0;
    voice_sound(sound, sizeof sound, str_span(said, head.len, said.len - tail.len));
    return voice_names_have(names, unit_str(sound), (str){0, 0});
}

/* One phrase: its characters, no digit among them, and its slot. */
static void voice_check_phrase(const char *phrase, b32 slot_known, textbuf *faults)
{
    iz n = (iz)strlen(phrase), slots = 0;
    if (!n || n > VOICE_SAMPLE_MAX || phrase[0] == ' ' || phrase[n - 1] == ' ' ||
        strstr(phrase, "  "))
        voice_fault(faults, "phrase's length or blanks", phrase);
    for (const char *c = phrase; *c; c++) {
        if (!strncmp(c, "{LINE}", 6) && slot_known) {
            slots++, c += 5;
            if ((c - 5 > phrase && c[-6] != ' ') || (c[1] && c[1] != ' '))
                voice_fault(faults, "phrase's slot inside a word", phrase);
        } else if (!strchr("abcdefghijklmnopqrstuvwxyz '.-", *c)) {
            voice_fault(faults, "phrase's character", phrase);
        }
    }
    if (slots > 1)
        voice_fault(faults, "phrase's slots", phrase);
}

/* All phrases: none twice, and none of one intent that is another's, whatever line fills it. */
static void voice_check_samples(str doc, textbuf *faults)
{
    static char phrase[2000][VOICE_SAMPLE_MAX + 2];
    static iz intent[2000];
    textbuf name = {0}, samples = {0}, names = {0};
    char path[120];
    iz count = 0;
    voice_names(doc, &names, faults);
    for (iz i = 0; voice_string(doc, LM ".intents.%ld.name", i, &name); i++) {
        unit_print(path, sizeof path, LM ".intents.%ld.samples", i);
        iz n = voice_strings(doc, path, &samples);
        if (!n != !strncmp(name.ptr, "AMAZON.", 7) || (n && n < 100))
            voice_fault(faults, "number of phrases", name.ptr);
        for (str rest = text_str(&samples); rest.len && count < countof(phrase); count++) {
            str one = str_cut(&rest, '\n');
            snprintf(phrase[count], sizeof phrase[0], "%.*s", (int)one.len, one.ptr);
            intent[count] = i;
            voice_check_phrase(phrase[count], !strcmp(name.ptr, "StatusIntent"), faults);
        }
    }
    for (iz i = 0; i < count; i++)
        for (iz k = 0; k < count; k++) {
            if (i < k && !strcasecmp(phrase[i], phrase[k]))
                voice_fault(faults, "phrase twice", phrase[k]);
            if (intent[i] != intent[k] &&
                voice_utters(unit_str(phrase[i]), text_str(&names), unit_str(phrase[k])))
                voice_fault(faults, "phrase of two intents", phrase[k]);
        }
    text_free(&name), text_free(&samples), text_free(&names);
}

/* The values of the slot: each id and each sound once. They are the lines that TfL has and London
 * Overground as a whole; and whatever the skill calls a line, Alexa does. */
static void voice_check_lines(str doc, textbuf *faults)
{
    textbuf names = {0}, id = {0}, ids = {0};
    char sound[200];
    iz lines = 0;
    voice_names(doc, &names, faults);
    for (str rest = text_str(&names); rest.len;) {
        str row = str_cut(&rest, '\n'), called = str_cut(&row, '|');
        snprintf(sound, sizeof sound, "%.*s", (int)called.len, called.ptr);
        if (voice_names_have(rest, called, (str){0, 0}))
            voice_fault(faults, "name twice", sound);
    }
    for (; voice_string(doc, LM ".types.0.values.%ld.id", lines, &id); lines++) {
        iz i = 0;
        while (i < countof(standin_lines) && strcmp(standin_lines[i].id, id.ptr))
            i++;
        if (i == countof(standin_lines) && strcmp(id.ptr, "london-overground"))
            voice_fault(faults, "id", id.ptr);
        text_format(&id, "|");
        if (text_has(&ids, id.ptr))
            voice_fault(faults, "id twice", id.ptr);
        text_format(&ids, "|%s", id.ptr);
    }
    if (lines != countof(standin_lines) + 1)
        voice_fault(faults, "number of lines", "");
    for (str rows = line_rows(); rows.len;) {
        str row = str_cut(&rows, '\n'), rest = row, own = str_cut(&rest, '|');
        while (row.len) {
            voice_sound(sound, sizeof sound, str_cut(&row, '|'));
            if (!voice_names_have(text_str(&names), unit_str(sound), own))
                voice_fault(faults, "name of the skill that is missing", sound);
        }
    }
    text_free(&names), text_free(&id), text_free(&ids);
}

static void voice_check_model(str doc, textbuf *faults)
{
    text_clear(faults);
    voice_check_schema(doc, voice_model_members, countof(voice_model_members), faults);
    if (faults->len)
        return;
    if (doc.len > VOICE_MODEL_MAX)
        voice_fault(faults, "size", "");
    voice_check_invocation(doc, faults);
    voice_check_intents(doc, faults);
    voice_check_samples(doc, faults);
    voice_check_lines(doc, faults);
}

/* The first place where `find` stands gets another text. */
static void voice_change(textbuf *to, const textbuf *from, const char *find, const char *put)
{
    const char *at = strstr(from->ptr, find);
    text_clear(to);
    CHECK_ROW(at, find);
    if (!at)
        return;
    text_add(to, from->ptr, at - from->ptr);
    text_puts(to, put);
    text_puts(to, at + strlen(find));
}

static void voice_print_faults(const textbuf *faults)
{
    if (faults->len)
        fprintf(stderr, "%.2000s", faults->ptr);
    CHECK(!faults->len);
}

#define VALUE_141                                                                            \
    "\"met met met met met met met met met met met met met met met met met met met met met " \
    "met met met met met met met met met met met met met met met\""

/* The model is without fault, and a fault in it would be members. */
static void test_voice_model(void)
{
    static const struct {
        const char *find, *put, *fault;
    } rows[] = {
        {"\"samples\": []", "\"samples\": [],", "not strict JSON"},
        {"\"samples\": []", "\"samples\": null", "not in the schema: " LM ".intents.#.samples"},
        {"\"samples\": []", "\"samples\": [], \"samples\": []", "twice: " LM ".intents.#.samples"},
        {"\"samples\": []", "\"sample\": []", "missing: " LM ".intents.#.samples"},
        {"\"value\": \"Jubilee\"", "\"value\": 7", "not in the schema: " LM ".types.#.values.#"},
        {"\"value\": \"Jubilee\"", "\"value\": \"Jubil\\u00e9e\"", "name's character"},
        {"\"value\": \"Jubilee\"", "\"value\": \"Jubil\xc3\xa9\"", "not ASCII"},
        {"london travel", "london", "invocation name's length"},
        {"london travel", "London travel", "invocation name's character"},
        {"london travel", "the travel", "invocation name's word"},
        {"london travel", "london  travel", "invocation name's word"},
        {"\"CommuteIntent\"", "\"Commute2Intent\"", "intent's character"},
        {"\"CommuteIntent\"", "\"Commute.Intent\"", "intent's character"},
        {"\"CommuteIntent\"", "\"TravelIntent\"", "intent that the skill does not know"},
        {"\"CommuteIntent\"", "\"TravelIntent\"", "intent of the skill that is missing"},
        {"\"CommuteIntent\"", "\"StatusIntent\"", "intent twice"},
        {"AMAZON.StopIntent", "AMAZON.YesIntent", "intent that is not expected"},
        {"\"name\": \"LINE\"", "\"name\": \"line\"", "slot: StatusIntent"},
        {"\"type\": \"LINE_NAME\"", "\"type\": \"LINE\"", "slot: StatusIntent"},
        {"\"name\": \"LINE_NAME\"", "\"name\": \"LINE-NAME\"", "type: LINE-NAME"},
        {"\"my commute\"", "\"my commute?\"", "phrase's character"},
        {"\"my commute\"", "\"my 9 commute\"", "phrase's character"},
        {"\"my commute\"", "\"my {LINE} commute\"", "phrase's character"},
        {"\"my commute\"", "\"\"", "phrase's length"},
        {"\"my commute\"", "\" my commute\"", "phrase's length"},
        {"\"my commute\"", "\"my commute today\"", "phrase twice"},
        {"\"my commute\"", "\"Delays\"", "phrase twice"},
        {"\"my commute\"", "\"crossrail status\"", "phrase of two intents: crossrail status"},
        {"\"my commute\"", "\"the drain\"", "phrase of two intents: the drain"},
        {"\"{LINE} status\"", "\"{LINE}s status\"", "phrase's slot inside a word"},
        {"\"{LINE} status\"", "\"{ROW} status\"", "phrase's character"},
        {"\"{LINE} status\"", "\"{LINE} {LINE}\"", "phrase's slots"},
        {"\"samples\": []", "\"samples\": [\"stop\"]", "number of phrases"},
        {"\"met\"", VALUE_141, "name's length"},
        {"\"met\"", "\"line 2\"", "name's length or digits"},
        {"\"met\"", "\"h & c\"", "name's character"},
        {"\"met\"", "\"Circle\"", "name twice: circle"},
        {"\"met\"", "\"metro\"", "name of the skill that is missing: met"},
        {"\"lizzie\"", "\"liz\"", "name twice: liz"},
        {"\"id\": \"windrush\"", "\"id\": \"weaver\"", "id twice"},
        {"\"id\": \"windrush\"", "\"id\": \"tfl-rail\"", "id: tfl-rail"},
    };
    textbuf model = {0}, again = {0}, faults = {0};
    voice_model(&model), voice_model(&again);
    CHECK(model.len == again.len && !memcmp(model.ptr, again.ptr, (size_t)model.len));
    CHECK(str_starts(text_str(&model),
                     S("{\n  \"interactionModel\": {\n    \"languageModel\": {\n      \"inv")));
    CHECK(!strstr(model.ptr, " \n") && !strcmp(model.ptr + model.len - 3, "\n}\n"));
    voice_check_model(text_str(&model), &faults);
    voice_print_faults(&faults);
    for (iz i = 0; i < countof(rows); i++) {
        voice_change(&again, &model, rows[i].find, rows[i].put);
        voice_check_model(text_str(&again), &faults);
        CHECK_ROW(text_has(&faults, rows[i].fault), rows[i].fault);
    }
    text_free(&model), text_free(&again), text_free(&faults);
}

/* The texts of the manifest have these lengths and this number. */
static void voice_check_text(str doc, const char *path, iz least, iz most, textbuf *faults)
{
    textbuf value = {0};
    if (peek_json(doc, path, &value) != 's' || value.len < least || value.len > most)
        voice_fault(faults, "length", path);
    text_free(&value);
}

/* "Alexa, ask London Travel", and then a phrase of the model with a line in its slot. */
static void voice_check_example(str example, str phrases, str names, textbuf *faults)
{
    char said[300];
    str start = S("Alexa, ask London Travel ");
    b32 found = 0;
    snprintf(said, sizeof said, "%.*s", (int)example.len, example.ptr);
    while (phrases.len && !found && str_starts(example, start))
        found = voice_utters(str_cut(&phrases, '\n'), names, str_from(example, start.len));
    if (!found)
        voice_fault(faults, "example", said);
}

static void voice_check_manifest(str doc, textbuf *faults)
{
    textbuf model = {0}, names = {0}, phrases = {0}, more = {0}, examples = {0};
    text_clear(faults);
    voice_check_schema(doc, voice_manifest_members, countof(voice_manifest_members), faults);
    voice_check_text(doc, PUB ".locales.en-GB.name", 2, 50, faults);
    voice_check_text(doc, PUB ".locales.en-GB.summary", 1, 160, faults);
    voice_check_text(doc, PUB ".locales.en-GB.description", 1, 4000, faults);
    voice_check_text(doc, PUB ".testingInstructions", 1, 4000, faults);
    voice_model(&model);
    voice_names(text_str(&model), &names, faults);
    for (iz i = 0; i < 3; i++) {
        char path[120];
        unit_print(path, sizeof path, LM ".intents.%ld.samples", i);
        voice_strings(text_str(&model), path, &more);
        text_add(&phrases, more.ptr, more.len);
    }
    iz count = voice_strings(doc, PUB ".locales.en-GB.examplePhrases", &examples);
    if (count < 1 || count > 3)
        voice_fault(faults, "number of examples", "");
    for (str rest = text_str(&examples); rest.len;)
        voice_check_example(str_cut(&rest, '\n'), text_str(&phrases), text_str(&names), faults);
    count = voice_strings(doc, PUB ".locales.en-GB.keywords", &more);
    if (count < 1 || count > 30)
        voice_fault(faults, "number of keywords", "");
    text_free(&model), text_free(&names), text_free(&phrases), text_free(&more);
    text_free(&examples);
}

#define VOICE_80 "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 012"
#define ARN "arn:aws:lambda:eu-west-1:123456789012:function:travel"

static void test_voice_manifest(void)
{
    static const struct {
        const char *find, *put, *fault;
    } rows[] = {
        {"\"1.0\",", "\"1.0\"", "not strict JSON"},
        {"\"containsAds\": false", "\"containsAds\": \"false\"", "not in the schema"},
        {"\"category\"", "\"categories\"", "missing: " PUB ".category"},
        {"\"uri\": \"" ARN "\"", "\"url\": \"\"", "missing: manifest.apis.custom.endpoint.uri"},
        {"\"summary\": \"", "\"summary\": \"" VOICE_80 VOICE_80, "length: " PUB ".locales"},
        {"\"London Travel\"", "\"L\"", "length: " PUB ".locales.en-GB.name"},
        {"about my commute\"", "about my commute\", \"Alexa, ask London Travel my commute\"",
         "number of examples"},
        {"about my commute\"", "about my train\"", "example"},
        {"the Victoria line is", "the Jabberwocky line is", "example"},
        {"Alexa, ask London Travel about", "Alexa, ask Travel about", "example"},
    };
    static const struct {
        const char *arn;
        b32 good;
    } arns[] = {
        {ARN, 1},
        {ARN ":live", 1},
        {VOICE_NO_ARN, 1},
        {ARN "\"", 0},
        {ARN " ", 0},
        {"", 0},
        {"arn:aws:lambda:eu-west-1:12345678901:function:travel", 0},
        {"arn:aws:lambda:eu-west-1:1234567890123:function:travel", 0},
        {"arn:aws:lambda:eu-west-1:123456789012:function:", 0},
        {"arn:aws:s3:::travel", 0},
        {"travel", 0},
    };
    textbuf manifest = {0}, again = {0}, faults = {0}, out = {0};
    voice_manifest(&manifest, ARN), voice_manifest(&again, ARN);
    CHECK(manifest.len == again.len && !memcmp(manifest.ptr, again.ptr, (size_t)again.len));
    voice_check_manifest(text_str(&manifest), &faults);
    voice_print_faults(&faults);
    peek_json(text_str(&manifest), "manifest.apis.custom.endpoint.uri", &out);
    CHECK(!strcmp(out.ptr, ARN));
    peek_json(text_str(&manifest), PUB ".category", &out);
    CHECK(!strcmp(out.ptr, "PUBLIC_TRANSPORTATION")); /* of the schema's enumeration */
    peek_json(text_str(&manifest), "manifest.manifestVersion", &out);
    CHECK(!strcmp(out.ptr, "1.0"));
    for (iz i = 0; i < countof(rows); i++) {
        voice_change(&again, &manifest, rows[i].find, rows[i].put);
        voice_check_manifest(text_str(&again), &faults);
        CHECK_ROW(text_has(&faults, rows[i].fault), rows[i].fault);
    }
    for (iz i = 0; i < countof(arns); i++)
        CHECK_ROW(voice_arn_good(arns[i].arn) == arns[i].good, arns[i].arn);
    text_free(&manifest), text_free(&again), text_free(&faults), text_free(&out);
}

/* What SAY asks for. */
static void test_voice_say(void)
{
    static const struct {
        const char *say, *intent, *spoken, *id; /* intent "": a launch */
    } rows[] = {
        {"victoria", "StatusIntent", "victoria", "victoria"},
        {"The Victoria Line", "StatusIntent", "victoria", "victoria"},
        {"Alexa, ask London Travel about the Victoria line", "StatusIntent", "victoria",
         "victoria"},
        {"how's the Northern line?", "StatusIntent", "northern", "northern"},
        {"hows the northern line", "StatusIntent", "northern", "northern"},
        {"is the central line open", "StatusIntent", "central", "central"},
        {"Hammersmith & City", "StatusIntent", "hammersmith and city", "hammersmith-city"},
        {"D.L.R.", "StatusIntent", "dlr", "dlr"},
        {"d. l. r. status", "StatusIntent", "d l r", "dlr"},
        {"any problems on the drain today", "StatusIntent", "drain", "waterloo-city"},
        {"will the Hammersmith & City line take me to work", "StatusIntent", "hammersmith and city",
         "hammersmith-city"},
        {"metal victorian circles", "StatusIntent", "metal victorian circles", NULL},
        {"the Elizabeth line", "StatusIntent", "elizabeth", "elizabeth"},
        {"how's elizabeth line doing", "StatusIntent", "elizabeth line", "elizabeth"},
        {"is the jabberwocky line running", "StatusIntent", "jabberwocky", NULL},
        {"jabberwocky", "StatusIntent", "jabberwocky", NULL},
        {"the city", "StatusIntent", "city", "waterloo-city"},
        {"is there any disruption?", "DisruptionIntent", NULL, NULL},
        {"Alexa, ask London Travel if there are any delays on the tube", "DisruptionIntent", NULL,
         NULL},
        {"disruption, please", "DisruptionIntent", "disruption please", NULL},
        {"is there any disruption on the jubilee line", "StatusIntent", "jubilee", "jubilee"},
        {"How's my commute looking?", "CommuteIntent", NULL, NULL},
        {"help", "AMAZON.HelpIntent", "help", NULL},
        {"Stop!", "AMAZON.StopIntent", "stop", NULL},
        {"cancel", "AMAZON.CancelIntent", "cancel", NULL},
        {"repeat that", "AMAZON.RepeatIntent", "repeat that", NULL},
        {"Alexa, open London Travel", "", NULL, NULL},
        {"launch", "", NULL, NULL},
        {"Alexa, London Travel", "", NULL, NULL},
        {"", "", NULL, NULL},
    };
    for (iz i = 0; i < countof(rows); i++) {
        run_turn t = run_say(rows[i].say);
        b32 launch = !strcmp(t.event.type, "LaunchRequest");
        CHECK_ROW(!strcmp(t.said, rows[i].say) && launch == !*rows[i].intent, rows[i].say);
        if (launch)
            continue;
        CHECK_ROW(!strcmp(t.event.intent, rows[i].intent), rows[i].say);
        CHECK_ROW(rows[i].spoken ? t.event.spoken && !strcmp(t.event.spoken, rows[i].spoken)
                                 : !t.event.spoken,
                  rows[i].say);
        CHECK_ROW(rows[i].id ? t.event.id && !strcmp(t.event.id, rows[i].id) : !t.event.id,
                  rows[i].say);
        CHECK_ROW(!t.event.token == !!strcmp(t.event.intent, "CommuteIntent"), rows[i].say);
    }
}

/* One name of a line as Alexa sends it, resolved or not: TfL is asked for that very line, and the
 * answer names it. */
static void e2e_voice_ask(world *w, const char *id, const char *name, const char *spoken)
{
    b32 whole = !strcmp(id, "london-overground");
    textbuf heard = {0};
    char asked[120], called[40];
    snprintf(asked, sizeof asked, "/Line/%s/Status",
             whole ? "liberty%2Clioness%2Cmildmay%2Csuffragette%2Cweaver%2Cwindrush" : id);
    snprintf(called, sizeof called, "%s", !strcmp(id, "dlr") ? "D.L.R." : name);
    for (int resolved = 0; resolved < 2; resolved++) {
        alexa_event e = {.type = "IntentRequest", .intent = "StatusIntent", .spoken = spoken};
        if (resolved)
            e.id = id, e.name = name;
        world_forget(w);
        CHECK_ROW(e2e_ask(w, &e, &heard) == 'r', spoken);
        CHECK_ROW(world_count(w, W_TFL, asked, NULL) == 1, spoken);
        CHECK_ROW(world_count(w, W_TFL, "", NULL) == 1, spoken);
        CHECK_ROW(text_has(&heard, called), spoken);
    }
    text_free(&heard);
}

/* There and back: every id, name and synonym of the model is understood by the bootstrap, resolved
 * or not, and every intent is one of its own. */
static void test_e2e_voice_model(void)
{
    textbuf model = {0}, id = {0}, name = {0}, list = {0}, heard = {0};
    char path[120], one[200];
    world w;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    voice_model(&model);
    str doc = text_str(&model);
    for (iz i = 0; voice_string(doc, LM ".types.0.values.%ld.id", i, &id); i++) {
        voice_string(doc, LM ".types.0.values.%ld.name.value", i, &name);
        unit_print(path, sizeof path, LM ".types.0.values.%ld.name.synonyms", i);
        voice_strings(doc, path, &list);
        e2e_voice_ask(&w, id.ptr, name.ptr, id.ptr);
        e2e_voice_ask(&w, id.ptr, name.ptr, name.ptr);
        for (str rest = text_str(&list); rest.len;) {
            str synonym = str_cut(&rest, '\n');
            snprintf(one, sizeof one, "%.*s", (int)synonym.len, synonym.ptr);
            e2e_voice_ask(&w, id.ptr, name.ptr, one);
        }
    }
    for (iz i = 0; voice_string(doc, LM ".intents.%ld.name", i, &name); i++) {
        alexa_event e = {.type = "IntentRequest", .intent = name.ptr, .token = world_token};
        CHECK_ROW(e2e_ask(&w, &e, &heard) == 'r' && heard.len, name.ptr);
        CHECK_ROW(text_has(&heard, "can't help with that") ==
                      !strcmp(name.ptr, "AMAZON.FallbackIntent"),
                  name.ptr);
    }
    CHECK(!text_has(&w.log, "UnhandledIntent"));
    e2e_ask(&w, &(alexa_event){.type = "IntentRequest", .intent = "AMAZON.YesIntent"}, &heard);
    world_idle(&w, 100);
    CHECK(text_has(&w.log, "UnhandledIntent") && text_has(&heard, "can't help with that"));
    e2e_close(&w);
    text_free(&model), text_free(&id), text_free(&name), text_free(&list), text_free(&heard);
}

/* ---- many events at once, as on Managed Instances and under AWS's emulator ---- */

/* A Runtime API that has many events out at a time. It answers byte for byte as AWS's runtime
 * interface emulator (rapi/rendering/rendering.go, and Go's net/http below it: headers by name,
 * then Date; a body of over 2,048 bytes is one chunk). Each event has a word of its own in the
 * session's attributes, which AMAZON.RepeatIntent has the skill say again. */
enum { CROWD_MAX = 20000, CROWD_TOGETHER = 64 };

typedef struct crowd {
    int total, handed, done, wrong;
    int flying, most;          /* handed out and not answered: now, and the most at a time */
    int hold;                  /* nobody gets an event before so many wait for one */
    int refuse;                /* so many calls of `next` more are answered with 500 */
    int conns;                 /* connections that asked */
    int asked[CROWD_TOGETHER]; /* their serial numbers */
    int by[CROWD_MAX]; /* the connection that each event went to, negative once it is answered */
} crowd;

static crowd the_crowd;

/* Every third event is as short as can be, every tenth asks TfL, every 25th is none. */
static void crowd_event(textbuf *t, int n)
{
    char attributes[100];
    alexa_event e = {.type = "IntentRequest", .intent = "AMAZON.RepeatIntent"};
    snprintf(attributes, sizeof attributes, "{\"speech\":\"word %08d it is\"}", n);
    e.attributes = attributes;
    text_clear(t);
    if (n % 25 == 7)
        text_puts(t, "[1,2");
    else if (n % 10 == 5)
        event_make(t, &e2e_victoria);
    else if (n % 3 == 0)
        text_fill(t,
                  "{'session':{'attributes':#,'application':{'applicationId':@}},'request':"
                  "{'type':'IntentRequest','intent':{'name':'AMAZON.RepeatIntent'}}}",
                  attributes, world_skill_id);
    else
        event_make(t, &e);
}

/* Sends an answer in the form of Go's net/http. */
static void crowd_reply(world *w, world_conn *c, int status, const char *headers, str body)
{
    textbuf t = {0};
    text_format(&t, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n%s", status,
                http_reason(status), headers);
    text_time(&t, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", 0);
    if (body.len > 2048)
        text_format(&t, "Transfer-Encoding: chunked\r\n\r\n%tx\r\n", body.len);
    else
        text_format(&t, "Content-Length: %td\r\n\r\n", body.len);
    text_add(&t, body.ptr, body.len);
    text_puts(&t, body.len > 2048 ? "\r\n0\r\n\r\n" : "");
    world_reply a = {.framing = W_RAW, .body = text_str(&t)};
    conn_answer(c, &a);
    conn_flush(w, c);
    text_free(&t);
}

static void crowd_hand(world *w, world_conn *c, int n)
{
    textbuf event = {0}, headers = {0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    crowd_event(&event, n);
    text_format(&headers,
                "Lambda-Runtime-Aws-Request-Id: 8f507dfc-5e1b-4c4a-9b1f-%012d\r\n"
                "Lambda-Runtime-Deadline-Ms: %lld\r\n"
                "Lambda-Runtime-Invocation-Id: invocation-%d\r\n"
                "Lambda-Runtime-Invoked-Function-Arn: "
                "arn:aws:lambda:us-east-1:012345678912:function:test_function\r\n",
                n, now.tv_sec * 1000LL + 300000, n * 7);
    w->crowd->by[n] = c->serial;
    w->crowd->flying++;
    if (w->crowd->most < w->crowd->flying)
        w->crowd->most = w->crowd->flying;
    crowd_reply(w, c, 200, headers.ptr, text_str(&event));
    text_free(&event), text_free(&headers);
}

static void crowd_offer(world *w)
{
    crowd *many = w->crowd;
    int waiting = 0;
    for (int i = 0; i < W_CONNS; i++)
        waiting += w->conn[i].fd >= 0 && w->conn[i].next;
    if (waiting < many->hold)
        return;
    many->hold = 0;
    for (int i = 0; i < W_CONNS && many->handed < many->total; i++)
        if (w->conn[i].fd >= 0 && w->conn[i].next)
            crowd_hand(w, &w->conn[i], many->handed++);
}

/* The answer must come by the connection that its event went to, with its ids and its word. */
static void crowd_post(world *w, world_conn *c, const world_request *q, const char *what)
{
    crowd *many = w->crowd;
    textbuf echo = {0};
    char word[40], id[40];
    int n = -1, end = 0;
    sscanf(what, "8f507dfc-5e1b-4c4a-9b1f-%12d/%n", &n, &end);
    if (n < 0 || n >= many->handed || many->by[n] != c->serial) {
        many->wrong++;
        crowd_reply(w, c, 400, "",
                    S("{\"errorMessage\":\"Invalid request ID\",\"errorType\":"
                      "\"InvalidRequestID\"}\n"));
        return;
    }
    b32 event = n % 25 != 7;
    snprintf(word, sizeof word, n % 10 == 5 ? "ictoria" : "word %08d it is", n);
    snprintf(id, sizeof id, "invocation-%d", n * 7);
    many->wrong += strcmp(what + end, event ? "response" : "error") != 0;
    many->wrong += event && !text_has(&q->body, word);
    many->wrong +=
        !head_value(&q->head, "Lambda-Runtime-Invocation-Id", &echo) || strcmp(echo.ptr, id);
    many->by[n] = -1;
    many->flying--;
    many->done++;
    crowd_reply(w, c, 202, "", S("{\"status\":\"OK\"}\n"));
    text_free(&echo);
    if (many->done % 200 == 0)
        w->forget = 1;
}

static void crowd_answer(world *w, world_conn *c, const world_request *q)
{
    crowd *many = w->crowd;
    static const char base[] = "/2018-06-01/runtime/invocation/";
    const char *what = strncmp(q->path.ptr, base, strlen(base)) ? "" : q->path.ptr + strlen(base);
    int i = 0;
    if (!strcmp(q->method, "POST")) {
        crowd_post(w, c, q, what);
    } else if (strcmp(what, "next")) {
        crowd_reply(w, c, 404, "", S("404 page not found\n"));
    } else if (many->refuse) {
        many->refuse--;
        crowd_reply(w, c, 500, "", S("{\"errorMessage\":\"Internal Server Error\"}\n"));
    } else {
        while (i < many->conns && many->asked[i] != c->serial)
            i++;
        if (i == many->conns && i < CROWD_TOGETHER)
            many->asked[many->conns++] = c->serial;
        c->next = 1;
        crowd_offer(w);
    }
}

/* The processes whose parent is `parent`: their number, and their ids in `found`. */
static int children_of(pid_t parent, pid_t found[CROWD_TOGETHER])
{
    DIR *proc = opendir("/proc");
    int n = 0;
    for (struct dirent *d; proc && (d = readdir(proc));) {
        char path[300], text[512];
        snprintf(path, sizeof path, "/proc/%.20s/stat", d->d_name);
        FILE *f = *d->d_name >= '1' && *d->d_name <= '9' ? fopen(path, "re") : NULL;
        size_t got = f ? fread(text, 1, sizeof text - 1, f) : 0;
        text[got] = 0;
        char *name = strrchr(text, ')'), state = 0;
        int its = 0;
        if (name && sscanf(name + 1, " %c %d", &state, &its) == 2 && its == parent &&
            state != 'Z' && n < CROWD_TOGETHER)
            found[n++] = atoi(text);
        if (f)
            fclose(f);
    }
    if (proc)
        closedir(proc);
    return n;
}

/* Is the process gone, or about to be, within 10 s? */
static b32 process_ends(pid_t pid)
{
    for (int i = 0; i < 1000; i++) {
        char path[64], text[512];
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *f = fopen(path, "re");
        size_t got = f ? fread(text, 1, sizeof text - 1, f) : 0;
        text[got] = 0;
        if (f)
            fclose(f);
        const char *name = strrchr(text, ')');
        if (!name || name[2] == 'Z' || name[2] == 'X')
            return 1;
        usleep(10000);
    }
    return 0;
}

static b32 runner_given(void)
{
    const char *runner = getenv("RUNNER");
    return runner && *runner;
}

/* The stack guard of a bootstrap: the first word of what it may write, as the linker's script lays
 * it out. 0 where it cannot be told: a runner's memory is not the program's. */
static u64 guard_of(pid_t pid)
{
    char path[64], row[500];
    unsigned long from = 0, at;
    u64 guard = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *f = runner_given() ? NULL : fopen(path, "re");
    while (f && !from && fgets(row, sizeof row, f))
        if (strstr(row, " rw-p ") && sscanf(row, "%lx", &at) == 1)
            from = at;
    if (f)
        fclose(f);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = from ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        if (pread(fd, &guard, sizeof guard, (off_t)from) != sizeof guard)
            guard = 0;
        close(fd);
    }
    return guard;
}

/* Every copy has a guard of its own, as text cannot write it. */
static void check_guards(const pid_t *of, int n)
{
    for (int i = 0; i < n && !runner_given(); i++) {
        u64 guard = guard_of(of[i]);
        CHECK(guard && !(guard & 255));
        for (int k = 0; k < i; k++)
            CHECK(guard != guard_of(of[k]));
    }
}

/* Serves until so many events are answered; false when the program ends or a minute goes by. */
static b32 crowd_serve(world *w, int total)
{
    i64 end = now_ns() + 60000000000LL;
    w->crowd->total = total;
    crowd_offer(w);
    while (w->crowd->done < total && w->pid && now_ns() < end)
        worlds_pump(&w, 1, 20);
    return w->crowd->done == total;
}

/* Serves until so many connections wait for an event. */
static b32 crowd_waits(world *w, int wanted)
{
    for (i64 end = now_ns() + 30000000000LL; w->pid && now_ns() < end;) {
        int waiting = 0;
        for (int i = 0; i < W_CONNS; i++)
            waiting += w->conn[i].fd >= 0 && w->conn[i].next;
        if (waiting == wanted)
            return 1;
        worlds_pump(&w, 1, 20);
    }
    return 0;
}

static void crowd_open(world *w, int workers)
{
    char text[100];
    the_crowd = (crowd){.hold = workers};
    world_open(w);
    w->crowd = &the_crowd;
    snprintf(text, sizeof text, "AWS_LAMBDA_MAX_CONCURRENCY%s%d", workers ? "=" : "", workers);
    if (workers)
        world_env(w, text);
}

/* Whole lines, each of an event: one at INFO for every event, and one at ERROR for every one that
 * was refused. */
static b32 crowd_logged(const world *w, int total)
{
    static u8 lines[2][16384]; /* at INFO and at ERROR, by the event's number */
    int wrong = total >= (int)countof(lines[0]);
    memset(lines, 0, sizeof lines);
    for (const char *at = w->log.ptr; at && *at; at += strcspn(at, "\n") + 1) {
        str entry = {(const u8 *)at, (iz)strcspn(at, "\n")};
        const char *id = strstr(at, "\"requestId\":\"8f507dfc-5e1b-4c4a-9b1f-");
        int n = id && id < at + entry.len ? atoi(id + 38) : -1,
            error = unit_has(entry, "\"ERROR\"");
        wrong += n < 0 || n >= total || at[entry.len - 1] != '}' || at[entry.len] != '\n' ||
                 lines[error][n & 16383]++;
    }
    for (int n = 0; n < total && !wrong; n++)
        wrong += lines[0][n] != 1 || lines[1][n] != (n % 25 == 7);
    return !wrong;
}

/* Eight workers answer 10,000 events at once: none is lost, none crossed. One that is killed is
 * replaced; when the first process is killed none stays. */
static void test_e2e_workers(void)
{
    enum { WORKERS = 8 };
    pid_t all[CROWD_TOGETHER], now[CROWD_TOGETHER];
    int total = runner_given() ? 1000 : 10000;
    world w;
    if (!e2e_ready())
        return;
    crowd_open(&w, WORKERS);
    world_start(&w);
    CHECK(crowd_serve(&w, total));
    CHECK(the_crowd.handed == total && !the_crowd.wrong && !the_crowd.flying);
    CHECK(the_crowd.most == WORKERS && the_crowd.conns == WORKERS);
    CHECK(crowd_waits(&w, WORKERS) && children_of(w.pid, all) == WORKERS);
    e2e_read_log(&w);
    CHECK(crowd_logged(&w, total) && !text_has(&w.log, "Worker"));
    all[WORKERS] = w.pid;
    check_guards(all, WORKERS + 1);
    for (int i = 0; i < 2; i++) {
        the_crowd.refuse = i; /* the second one's place is not free at once */
        kill(all[i], SIGKILL);
        CHECK(process_ends(all[i]));
        CHECK(crowd_waits(&w, WORKERS - 1) && crowd_waits(&w, WORKERS));
        CHECK(children_of(w.pid, now) == WORKERS);
        total += 50;
        the_crowd.hold = WORKERS;
        CHECK(crowd_serve(&w, total) && !the_crowd.wrong && the_crowd.most == WORKERS);
        CHECK(crowd_waits(&w, WORKERS));
    }
    CHECK(children_of(w.pid, all) == WORKERS);
    check_guards(all, WORKERS);
    CHECK(text_has(&w.log, "worker exit=0,signal=9") && text_has(&w.log, "WorkerEnded"));
    CHECK(text_has(&w.log, "worker exit=1,signal=0") && !the_crowd.refuse);
    CHECK(!text_has(&w.log, "WorkersFail") && w.pid);
    world_kill(&w);
    for (int i = 0; i < WORKERS; i++)
        CHECK(process_ends(all[i]));
    e2e_close(&w);
}

/* Workers that end at once, again and again, end all. */
static void test_e2e_workers_fail(void)
{
    pid_t none[CROWD_TOGETHER];
    world w;
    if (!e2e_ready())
        return;
    for (int refused = 0; refused < 2; refused++) {
        crowd_open(&w, 3);
        the_crowd.refuse = refused ? 1000 : 0;
        if (!refused)
            world_refuse(&w, W_API);
        world_start(&w);
        pid_t pid = w.pid;
        CHECK(world_wait_exit(&w, 30000) == 1);
        CHECK(children_of(pid, none) == 0);
        CHECK(text_has(&w.log, "WorkersFail") && text_has(&w.log, "worker exit=1,signal=0"));
        CHECK(text_has(&w.log, refused ? "RuntimeApiStatus" : "ConnectRefused"));
        e2e_close(&w);
    }
    crowd_open(&w, 1); /* neither one nor nonsense makes another process */
    world_env(&w, "AWS_LAMBDA_MAX_CONCURRENCY=eight");
    world_start(&w);
    CHECK(crowd_serve(&w, 10) && !the_crowd.wrong && the_crowd.most == 1);
    CHECK(children_of(w.pid, none) == 0 && text_has(&w.log, "WorkerCount"));
    e2e_close(&w);
}

/* Under the emulator: its answers, and no more variables than it sets. */
static void test_e2e_emulator(void)
{
    static const char *const unset[] = {
        "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",          "AWS_REGION",        "LAMBDA_TASK_ROOT"};
    world w;
    if (!e2e_ready())
        return;
    crowd_open(&w, 0);
    for (iz i = 0; i < countof(unset); i++)
        world_env(&w, unset[i]);
    world_start(&w);
    CHECK(crowd_serve(&w, 100) && !the_crowd.wrong);
    CHECK(the_crowd.most == 1 && the_crowd.conns == 1);
    CHECK(crowd_waits(&w, 1));
    e2e_read_log(&w);
    CHECK(crowd_logged(&w, 100));
    e2e_close(&w);
}

/* ---- what runs before the first GET lies together ---- */

#ifdef __x86_64__

/* Where the linker's script has put the functions that run first; false if there is no such place.
 * And where the program begins. */
static b32 early_place(u64 *from, u64 *to, u64 *entry)
{
    int fd = open(world_bootstrap(), O_RDONLY | O_CLOEXEC);
    struct stat st = {0};
    b32 found = 0;
    fstat(fd, &st);
    const u8 *file = mmap(0, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    const Elf64_Ehdr *head = (const void *)file;
    const Elf64_Shdr *section = (const void *)(file + head->e_shoff);
    const char *names = (const char *)file + section[head->e_shstrndx].sh_offset;
    for (int i = 0; i < head->e_shnum && !found; i++)
        if (!strcmp(names + section[i].sh_name, ".early")) {
            *from = section[i].sh_addr;
            *to = *from + section[i].sh_size;
            found = 1;
        }
    *entry = head->e_entry;
    munmap((void *)(uz)file, (size_t)st.st_size);
    return found;
}

/* Step by step up to the wait for the first answer: the Makefile's EARLY names every function. */
static void test_e2e_early(void)
{
    struct user_regs_struct r = {0};
    u64 from = 0, to = 0, entry = 0, base = 0, outside = 0;
    int status;
    long steps = 0;
    world w;
    if (!e2e_ready() || runner_given())
        return;
    CHECK(early_place(&from, &to, &entry));
    world_open(&w);
    pid_t pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execve(world_bootstrap(), (char *[]){(char *)(uz) "bootstrap", NULL}, w.env);
        _exit(127);
    }
    for (; steps < 100000 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status); steps++) {
        ptrace(PTRACE_GETREGS, pid, 0, &r);
        u64 code = (u64)ptrace(PTRACE_PEEKTEXT, pid, (void *)(uz)r.rip, 0);
        base = base ? base : r.rip - entry;
        if (!outside && (r.rip - base < from || r.rip - base >= to))
            outside = r.rip - base;
        if ((code & 0xffff) == 0x050f && r.rax == 45) /* syscall, recvfrom */
            break;
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    CHECK(steps > 1000 && r.rax == 45);
    if (outside)
        fprintf(stderr, "not among the early functions: 0x%llx\n", outside);
    CHECK(!outside);
    world_close(&w);
}

#else

static void test_e2e_early(void)
{
}

#endif

/* ---- snapshots ---- */

/* The connection on which a restore is waited for, or NULL. */
static world_conn *restore_wait(world *w)
{
    for (i64 end = now_ns() + 30000000000LL; w->pid && now_ns() < end;) {
        for (int i = 0; i < W_CONNS; i++)
            if (w->conn[i].fd >= 0 && w->conn[i].listener == W_API && w->conn[i].held)
                return &w->conn[i];
        worlds_pump(&w, 1, 20);
    }
    return NULL;
}

static void restore_open(world *w, int workers)
{
    crowd_open(w, workers);
    world_env(w, "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start");
    world_plan(w, W_API, "/2018-06-01/runtime/restore/next", (world_reply){.status = 0});
    world_start(w);
}

/* One restore for all workers, then connections of their own; nothing but that one request before
 * it. The guard, which every copy of the snapshot holds, is another afterwards. */
static void test_e2e_restore(void)
{
    pid_t all[CROWD_TOGETHER];
    world w;
    if (!e2e_ready())
        return;
    for (int workers = 0; workers <= 3; workers += 3) {
        restore_open(&w, workers);
        world_conn *c = restore_wait(&w);
        CHECK(c && w.requests == 1 && children_of(w.pid, all) == 0);
        u64 before = guard_of(w.pid);
        int serial = c ? c->serial : 0;
        if (c)
            crowd_reply(&w, c, 200, "", S(""));
        CHECK(crowd_serve(&w, 100) && !the_crowd.wrong);
        CHECK(the_crowd.conns == (workers ? workers : 1) && the_crowd.most == the_crowd.conns);
        CHECK(world_count(&w, W_API, "/restore/", NULL) == 1);
        for (int i = 0; i < the_crowd.conns; i++)
            CHECK(the_crowd.asked[i] != serial);
        CHECK(children_of(w.pid, all) == workers);
        all[workers] = w.pid;
        check_guards(all, workers + 1);
        for (int i = 0; i < (workers ? workers : 1); i++)
            CHECK(runner_given() || guard_of(all[i]) != before);
        e2e_close(&w);
    }
    for (int status = 200; status <= 500; status += 100) { /* 200: it breaks off */
        restore_open(&w, 0);
        world_conn *c = restore_wait(&w);
        CHECK(c != NULL);
        if (c && status == 200)
            conn_close(c, 1);
        else if (c)
            crowd_reply(&w, c, status, "", S("{\"errorMessage\":\"no\"}\n"));
        CHECK(world_wait_exit(&w, 30000) == 1 && text_has(&w.log, "not restored"));
        CHECK(w.requests == 1);
        e2e_close(&w);
    }
}

/* ---- an image that holds the program alone: FROM scratch ---- */

/* Makes `dir` the root of this process. */
static b32 root_enter(const char *dir)
{
    return (!geteuid() || !unshare(CLONE_NEWUSER)) && !chroot(dir) && !chdir("/");
}

/* An empty directory with the bootstrap, and the runner if there is one; or a skip. */
static b32 root_open(char dir[64])
{
    char command[9000];
    int status;
    snprintf(dir, 64, "/tmp/skill_root.XXXXXX");
    if (!mkdtemp(dir))
        return 0;
    pid_t pid = fork();
    if (!pid)
        _exit(!root_enter(dir));
    if (waitpid(pid, &status, 0) != pid || status) {
        printf("to be tested: the right to change the root, or user namespaces\n");
        skipped++;
        return 0;
    }
    snprintf(command, sizeof command, "cp '%s' %s/bootstrap && chmod 755 %s %s/bootstrap",
             world_bootstrap(), dir, dir, dir);
    CHECK(!system(command));
    snprintf(command, sizeof command, "cp \"$(command -v %s)\" %s/runner", getenv("RUNNER"), dir);
    CHECK(!runner_given() || !system(command));
    return 1;
}

static void root_https(const char *dir)
{
    char command[300];
    https_world h;
    world w;
    textbuf heard = {0};
    if (!peers_open(h.dir))
        return;
    https_open(&h, &w);
    world_env(&w, "SSL_CERT_FILE");
    w.root = dir;
    world_start(&w);
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && strcasestr(heard.ptr, "sorry"));
    CHECK(text_has(&w.log, "RootsMissing") && world_count(&w, W_TFL, "/", NULL) == 0);
    snprintf(command, sizeof command,
             "mkdir -p %s/etc/ssl/certs && cp %s/root.pem %s/etc/ssl/certs/ca-certificates.crt",
             dir, h.dir, dir);
    CHECK(!system(command)); /* the bundle is copied in: the same process finds it */
    CHECK(e2e_ask(&w, &e2e_victoria, &heard) == 'r' && text_has(&heard, "good service"));
    https_stop(&h);
    e2e_close(&w);
    peers_close(h.dir);
    text_free(&heard);
}

/* No file but the program: without a bundle a named error and an apology, with one all is well. */
static void test_e2e_empty_root(void)
{
    char dir[64], command[100];
    world w;
    textbuf heard = {0};
    if (!e2e_ready() || !root_open(dir))
        return;
    world_open(&w);
    w.root = dir;
    world_start(&w);
    CHECK(e2e_ask(&w, &e2e_commute, &heard) == 'r' && text_has(&heard, "Victoria"));
    CHECK(e2e_alive(&w) && !text_has(&w.log, "ERROR"));
    e2e_close(&w);
    root_https(dir);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK(!system(command));
    text_free(&heard);
}

/* ---- what the log says: CloudWatch's embedded metric format, one line for each invocation ---- */

/* The names of an object's members, a blank behind each; an empty text if it is none. */
static void peek_names(str object, textbuf *names)
{
    peeker p = {object.ptr, object.ptr + object.len, 0};
    textbuf value = {0};
    text_clear(names);
    if (!peek_take(&p, "{"))
        return;
    do {
        peek_space(&p);
        peek_string(&p, &value);
        text_format(names, "%s ", value.ptr);
        peek_space(&p);
        p.bad |= !peek_take(&p, ":");
        peek_value(&p, NULL, &value, 0);
        peek_space(&p);
    } while (!p.bad && peek_take(&p, ","));
    text_free(&value);
}

/* Is each of these names one of the allowed (any, where those are ""), and none there twice? */
static b32 emf_only(const textbuf *names, const char *allowed)
{
    textbuf word = {0};
    b32 good = 1;
    for (const char *at = names->ptr; *at; at += strcspn(at, " ") + 1) {
        text_clear(&word);
        text_puts(&word, " ");
        text_add(&word, at, (iz)strcspn(at, " ") + 1);
        good &= !*allowed || strstr(allowed, word.ptr) != NULL;
        good &= !strstr(at, word.ptr);
    }
    text_free(&word);
    return good;
}

static const char emf_units[] =
    " Seconds Microseconds Milliseconds Bytes Kilobytes Megabytes Gigabytes Terabytes Bits "
    "Kilobits Megabits Gigabits Terabits Percent Count Bytes/Second Kilobytes/Second "
    "Megabytes/Second "
    "Gigabytes/Second Terabytes/Second Bits/Second Kilobits/Second Megabits/Second Gigabits/Second "
    "Terabits/Second Count/Second None ";

/* One MetricDefinition: its target in the root is a number, or up to 100 of them. */
static const char *emf_metric(str entry, str metric)
{
    textbuf name = {0}, unit = {0}, value = {0};
    const char *fault = NULL;
    peek_names(metric, &name);
    if (!emf_only(&name, " Name Unit StorageResolution "))
        fault = "another member in a metric";
    else if (peek_json(metric, "Name", &name) != 's' || name.len < 1 || name.len > 255)
        fault = "a metric's name";
    char kind = peek_json(metric, "Unit", &unit);
    text_format(&value, " %s ", unit.ptr ? unit.ptr : "");
    if (!fault && kind && (kind != 's' || !unit.len || !strstr(emf_units, value.ptr)))
        fault = "a unit";
    kind = fault ? 'n' : peek_json(entry, name.ptr, &value);
    if (kind != 'n' && kind != '[')
        fault = "a metric without a number in the root";
    for (int i = 0; !fault && kind == '[' && i < 1000; i++) {
        textbuf path = {0};
        text_format(&path, "%s.%d", name.ptr, i);
        char item = peek_json(entry, path.ptr, &value);
        text_free(&path);
        if (!item)
            break;
        if (item != 'n' || i == 100)
            fault = "a metric of other than 100 numbers";
    }
    text_free(&name), text_free(&unit), text_free(&value);
    return fault;
}

/* The DimensionSet at a path: up to 30 keys (9 in the older schema), each a string in the root. */
static const char *emf_dimensions(str entry, const char *path)
{
    textbuf at = {0}, key = {0}, value = {0};
    const char *fault = NULL;
    for (int i = 0; !fault; i++) {
        text_clear(&at);
        text_format(&at, "%s.%d", path, i);
        char kind = peek_json(entry, at.ptr, &key);
        if (!kind)
            break;
        if (kind != 's' || i == 9 || key.len < 1 || key.len > 250)
            fault = "a dimension's key, or too many";
        else if (peek_json(entry, key.ptr, &value) != 's' || value.len < 1 || value.len > 1024)
            fault = "a dimension without a string in the root";
    }
    text_free(&at), text_free(&key), text_free(&value);
    return fault;
}

/* A MetricDirective. */
static const char *emf_directive(str entry, str directive, const char *path)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                   ".-_/#:";
    textbuf text = {0}, at = {0};
    const char *fault = NULL;
    peek_names(directive, &text);
    if (!emf_only(&text, " Namespace Dimensions Metrics "))
        fault = "another member in a directive";
    else if (peek_json(directive, "Namespace", &text) != 's' || text.len < 1 || text.len > 255 ||
             (iz)strspn(text.ptr, alphabet) != text.len || !strncmp(text.ptr, "AWS/", 4))
        fault = "the namespace"; /* and PutMetricData's rules for it */
    else if (peek_json(directive, "Dimensions.0", &text) != '[')
        fault = "no set of dimensions";
    else if (peek_json(directive, "Metrics", &text) != '[' ||
             peek_json(directive, "Metrics.100", &text))
        fault = "no metrics, or over 100";
    for (int i = 0; !fault; i++) {
        text_clear(&at);
        text_format(&at, "%s.Dimensions.%d", path, i);
        if (!peek_json(entry, at.ptr, &text))
            break;
        fault = text.ptr[0] == '[' ? emf_dimensions(entry, at.ptr) : "a set that is no array";
    }
    for (int i = 0; !fault; i++) {
        text_clear(&at);
        text_format(&at, "Metrics.%d", i);
        char kind = peek_json(directive, at.ptr, &text);
        if (!kind)
            break;
        fault = kind == '{' ? emf_metric(entry, text_str(&text)) : "a metric that is no object";
    }
    text_free(&text), text_free(&at);
    return fault;
}

/* What is wrong with a log line by "Specification: Embedded metric format" of the CloudWatch user
 * guide, its text and its JSON schema; NULL if nothing is. */
static const char *emf_fault(str entry)
{
    textbuf text = {0}, at = {0};
    const char *fault = NULL;
    i64 now = time(NULL);
    if (peek_json(entry, "", &text) != '{' || entry.len >= 256 * 1024)
        fault = "not one JSON object of up to 256 KB";
    peek_names(entry, &text);
    if (!fault && !emf_only(&text, ""))
        fault = "a member twice";
    if (!fault && peek_json(entry, "_aws", &text) != '{')
        fault = "no _aws";
    peek_names(text_str(&text), &at);
    if (!fault && !emf_only(&at, " Timestamp CloudWatchMetrics "))
        fault = "another member in _aws";
    if (!fault && (peek_json(entry, "_aws.Timestamp", &text) != 'n' || strpbrk(text.ptr, ".eE-") ||
                   atoll(text.ptr) / 1000 < now - 3600 || atoll(text.ptr) / 1000 > now + 60))
        fault = "the timestamp is not now in ms";
    if (!fault && peek_json(entry, "_aws.CloudWatchMetrics.0", &text) != '{')
        fault = "no directive";
    for (int i = 0; !fault; i++) {
        text_clear(&at);
        text_format(&at, "_aws.CloudWatchMetrics.%d", i);
        char kind = peek_json(entry, at.ptr, &text);
        if (!kind)
            break;
        fault = kind == '{' ? emf_directive(entry, text_str(&text), at.ptr) : "no directive";
    }
    text_free(&text), text_free(&at);
    return fault;
}

/* The judge itself: the example of the specification, and each of its rules broken. */
static void test_emf_judge(void)
{
#define EMF_OF(directive, rest) \
    "{'_aws':{'Timestamp':%d000,'CloudWatchMetrics':[{" directive "}]}" rest "}"
#define EMF_NAMES "'Namespace':'lambda-function-metrics',"
#define EMF_SET "'Dimensions':[['functionVersion']],"
#define EMF_TIME "'Metrics':[{'Name':'time','Unit':'Milliseconds'}]"
#define EMF_ROOT ",'functionVersion':'$LATEST','time':100,'requestId':'989ffbf8'"
    static const char *const good[] = {
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES "'Dimensions':[[]]," EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[{'Name':'time'}]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':[1,2.5]"),
    };
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{'_aws':[]}",
        "{'_aws':{'Timestamp':%d000}}",
        "{'_aws':{'Timestamp':%d000,'CloudWatchMetrics':{}}}",
        "{'_aws':{'Timestamp':%d,'CloudWatchMetrics':[{" EMF_NAMES EMF_SET EMF_TIME "}]}" EMF_ROOT
        "}",
        "{'_aws':{'Timestamp':'%d000','CloudWatchMetrics':[{" EMF_NAMES EMF_SET EMF_TIME
        "}]}" EMF_ROOT "}",
        "{'_aws':{'Timestamp':%d000,'More':1,'CloudWatchMetrics':[{" EMF_NAMES EMF_SET EMF_TIME
        "}]}" EMF_ROOT "}",
        EMF_OF(EMF_SET EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':{}", EMF_ROOT),
        EMF_OF("'Namespace':''," EMF_SET EMF_TIME, EMF_ROOT),
        EMF_OF("'Namespace':'AWS/Lambda'," EMF_SET EMF_TIME, EMF_ROOT),
        EMF_OF("'Namespace':'a b'," EMF_SET EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES "'Dimensions':[]," EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES "'Dimensions':['functionVersion']," EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES "'Dimensions':[['time']]," EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES "'Dimensions':[['gone']]," EMF_TIME, EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'','time':100"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME ",'More':1", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1'"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':'100'"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':null"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':{'time':1}"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':[1,'2']"),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, ",'functionVersion':'1','time':1,'time':2"),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[{'Name':'time','Unit':'ms'}]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[{'Name':'time','Unit':1}]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[{'Name':'time','Value':1}]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':[{'Unit':'Count'}]", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET "'Metrics':['time']", EMF_ROOT),
        EMF_OF(EMF_NAMES EMF_SET EMF_TIME, EMF_ROOT) "x",
    };
    textbuf form = {0}, text = {0};
    for (iz i = 0; i < countof(good) + countof(bad); i++) {
        const char *row = i < countof(good) ? good[i] : bad[i - countof(good)];
        const char *number = strstr(row, "%d");
        text_clear(&form), text_clear(&text);
        text_add(&form, row, number ? number - row : (iz)strlen(row));
        if (number)
            text_format(&form, "%lld%s", (i64)time(NULL), number + 2);
        text_fill(&text, form.ptr);
        const char *fault = emf_fault(text_str(&text));
        CHECK_ROW(!fault == (i < countof(good)), row);
    }
    text_free(&form), text_free(&text);
}

/* What an invocation's part of the log must be like. */
typedef struct {
    const char *id, *outcome, *type;
    b32 quiet, traced; /* no other line; with a trace id */
} e2e_told;

/* Takes what the log has grown by since `from`: how many lines at INFO, and others, there are. Each
 * is looked at; the one at INFO is put into `told`. */
static void e2e_take_log(world *w, iz from, b32 as_json, const e2e_told *what, textbuf *told,
                         int n[2])
{
    static const char tabs[] = "\t";
    textbuf value = {0};
    n[0] = n[1] = 0;
    e2e_read_log(w);
    for (const char *at = w->log.ptr + from; *at; at += strcspn(at, "\n") + 1) {
        str entry = {(const u8 *)at, (iz)strcspn(at, "\n")};
        b32 is_json = at[0] == '{', info = is_json && unit_has(entry, "\"level\":\"INFO\"");
        CHECK(at[entry.len] == '\n' && (is_json || !as_json) && unit_has(entry, what->id));
        CHECK(unit_has(entry, "1-5bef4de7-ad49b0e87f6ef6c87fc2e700") == what->traced);
        n[!info]++;
        if (info) {
            text_clear(told);
            text_add(told, at, entry.len);
        } else if (is_json) {
            CHECK(peek_json(entry, "errorType", &value) == 's');
            CHECK(peek_json(entry, "requestId", &value) == 's' && !strcmp(value.ptr, what->id));
        } else {
            CHECK(unit_count(entry, tabs) == 6); /* time, id, level, message, error, why, trace */
        }
    }
    text_free(&value);
}

static double e2e_number(const textbuf *entry, const char *path)
{
    textbuf value = {0};
    double v = peek_json(text_str(entry), path, &value) == 'n' ? strtod(value.ptr, NULL) : -1;
    text_free(&value);
    return v;
}

/* Is that text the string at a path of the line? */
static b32 e2e_says(const textbuf *entry, const char *path, const char *text)
{
    textbuf value = {0};
    b32 good = peek_json(text_str(entry), path, &value) == 's' && !strcmp(value.ptr, text);
    text_free(&value);
    return good;
}

/* The line at INFO: valid, of this invocation, its times in keeping with each other. */
static void e2e_check_told(const textbuf *told, const e2e_told *what)
{
    static const char *const parts[] = {"event", "dns",  "connect", "handshake",
                                        "http",  "json", "speech",  "respond"};
    textbuf value = {0};
    const char *fault = emf_fault(text_str(told));
    CHECK_ROW(!fault, fault ? fault : "");
    CHECK(e2e_says(told, "requestId", what->id) && e2e_says(told, "message", "invocation"));
    CHECK_ROW(e2e_says(told, "outcome", what->outcome), told->ptr);
    CHECK_ROW(!what->type || e2e_says(told, "requestType", what->type), told->ptr);
    CHECK(what->traced == e2e_says(told, "traceId", "1-5bef4de7-ad49b0e87f6ef6c87fc2e700"));
    CHECK(e2e_says(told, "FunctionName", "london-travel"));
    double sum = 0, part, whole = e2e_number(told, "Duration");
    for (iz i = 0; i < countof(parts); i++) {
        text_clear(&value);
        text_format(&value, "stages.%s", parts[i]);
        part = e2e_number(told, value.ptr);
        sum += part > 0 ? part : 0;
    }
    CHECK(whole > 0 && sum > whole - 0.010 && sum <= whole + 0.001); /* each part is cut to 1 us */
    b32 bad = !strcmp(what->outcome, "apologised") || !strcmp(what->outcome, "refused");
    CHECK(e2e_number(told, "Failures") == bad || !strcmp(what->outcome, "noted"));
    b32 tfl = e2e_number(told, "tfl.tries") > 0, any = tfl;
    any |= e2e_number(told, "preferences.tries") > 0;
    CHECK((e2e_number(told, "TflDuration") >= 0) == tfl);
    CHECK(e2e_number(told, "TflDuration") <= whole);
    CHECK((e2e_number(told, "Retries") >= 0) == any);
    CHECK(e2e_number(told, "HandshakeDuration") == -1); /* there is no TLS here */
    text_free(&value);
}

typedef enum { MIX_ALEXA, MIX_RAW, MIX_FAIL, MIX_RETRY, MIX_STALE } mix_kind;

/* The kinds of a mixed run. */
static const struct {
    mix_kind kind;
    b32 quiet; /* nothing went wrong */
    const char *outcome, *type, *intent, *line, *text;
} mix_rows[] = {
    {MIX_ALEXA, 1, "answered", "LaunchRequest", NULL, NULL, NULL},
    {MIX_ALEXA, 1, "answered", "IntentRequest", "StatusIntent", "victoria", NULL},
    {MIX_ALEXA, 1, "answered", "IntentRequest", "DisruptionIntent", NULL, NULL},
    {MIX_ALEXA, 1, "answered", "IntentRequest", "CommuteIntent", NULL, world_token},
    {MIX_ALEXA, 1, "link-account", "IntentRequest", "CommuteIntent", NULL, NULL},
    {MIX_ALEXA, 0, "link-account", "IntentRequest", "CommuteIntent", NULL, "stale-MARKER"},
    {MIX_ALEXA, 0, "link-account", "IntentRequest", "CommuteIntent", NULL, "no token MARKER"},
    {MIX_ALEXA, 1, "answered", "IntentRequest", "StatusIntent", "waterloo-city", NULL},
    {MIX_ALEXA, 1, "answered", "IntentRequest", "AMAZON.HelpIntent", NULL, NULL},
    {MIX_ALEXA, 0, "answered", "IntentRequest", "Weather\"Intent\\", NULL, NULL},
    {MIX_FAIL, 0, "apologised", "IntentRequest", "StatusIntent", "central", NULL},
    {MIX_FAIL, 0, "apologised", "IntentRequest", "DisruptionIntent", NULL, NULL},
    {MIX_RETRY, 1, "answered", "IntentRequest", "StatusIntent", "northern", NULL},
    {MIX_STALE, 1, "answered", "IntentRequest", "DisruptionIntent", NULL, NULL},
    {MIX_ALEXA, 0, "noted", "SessionEndedRequest", NULL, NULL, NULL},
    {MIX_ALEXA, 0, "noted", "System.ExceptionEncountered", NULL, NULL, NULL},
    {MIX_ALEXA, 0, "noted", "AlexaSkillEvent.SkillDisabled", NULL, NULL, NULL},
    {MIX_RAW, 1, "noted", "SessionEndedRequest", NULL, NULL,
     "{'request':{'type':'SessionEndedRequest','reason':'USER_INITIATED'},'context':{'System':{"
     "'application':{'applicationId':'amzn1.ask.skill.49f13574-8134-4748-afeb-62ef4defffa6'}}}}"},
    {MIX_RAW, 0, "refused", NULL, NULL, NULL, "{'request':{'type':'LaunchRequest'}} garbage"},
    {MIX_RAW, 0, "refused", NULL, NULL, NULL, "{'request':{'type':'LaunchRequest'}}"},
};

/* One invocation of such a kind; what it leaves in the log is looked at. */
static void e2e_mix(world *w, iz row, iz turn, b32 as_json, b32 silent)
{
    textbuf sent = {0}, told = {0}, heard = {0};
    mix_kind kind = mix_rows[row].kind;
    const char *text = mix_rows[row].text, *id = mix_rows[row].line;
    alexa_event e = {.type = mix_rows[row].type, .intent = mix_rows[row].intent};
    if (id) /* the words that were spoken are nobody's business */
        e.spoken = "spoken MARKER", e.id = id, e.name = id;
    else
        e.token = text;
    if (kind == MIX_RAW)
        text_fill(&sent, text);
    else
        event_make(&sent, &e);
    if (kind == MIX_FAIL || kind == MIX_RETRY)
        world_plan(
            w, W_TFL, "/Line/",
            (world_reply){.status = kind == MIX_FAIL ? 400 : 503, .headers = "Retry-After: 0\r\n"});
    if (kind == MIX_STALE)
        world_drop(w, W_TFL, turn & 1);
    world_event v = {.event = text_str(&sent), .no_trace = turn % 7 == 6};
    e2e_told what = {.outcome = mix_rows[row].outcome, .type = mix_rows[row].type};
    iz from = w->log.len;
    char outcome = world_invoke(w, &v, 9000);
    CHECK_ROW(outcome == (strcmp(what.outcome, "refused") ? 'r' : 'e'), sent.ptr);
    CHECK(world_idle(w, 9000) && w->plans == 0);
    what.id = v.made_id;
    what.traced = !v.no_trace;
    int n[2];
    e2e_take_log(w, from, as_json, &what, &told, n);
    CHECK(n[0] == !silent && (mix_rows[row].quiet ? n[1] == 0 : n[1] >= 1));
    if (!silent) {
        e2e_check_told(&told, &what);
        CHECK(!e.intent || text_has(&told, "\"intent\":\"") == (kind != MIX_RAW));
        CHECK(!id || e2e_says(&told, "lineId", id));
        CHECK((peek_json(text_str(&told), "errorType", &heard) == 's') ==
              (n[1] && text_has(&w->log, "ERROR") && strstr(w->log.ptr + from, "ERROR") != NULL));
        CHECK(e2e_number(&told, "Retries") <= 0 || kind == MIX_RETRY);
        CHECK(kind != MIX_RETRY || e2e_number(&told, "Retries") == 1);
    }
    world_done(&v);
    text_free(&sent), text_free(&told), text_free(&heard);
}

/* A thousand invocations of every kind, in both formats of the log; and some where the level keeps
 * the lines back. */
static void test_e2e_log_thousand(void)
{
    static const struct {
        const char *level, *format;
        b32 json, silent;
        int count;
    } rows[] = {{"AWS_LAMBDA_LOG_LEVEL=INFO", "AWS_LAMBDA_LOG_FORMAT=JSON", 1, 0, 520},
                {"AWS_LAMBDA_LOG_LEVEL=INFO", "AWS_LAMBDA_LOG_FORMAT=Text", 0, 0, 480},
                {"AWS_LAMBDA_LOG_LEVEL=WARN", "AWS_LAMBDA_LOG_FORMAT=JSON", 1, 1, 40}};
    world w;
    if (!e2e_ready())
        return;
    for (iz i = 0; i < countof(rows); i++) {
        world_open(&w);
        world_env(&w, rows[i].level), world_env(&w, rows[i].format);
        world_start(&w);
        for (int k = 0; k < rows[i].count; k++) {
            e2e_mix(&w, k % countof(mix_rows), k, rows[i].json, rows[i].silent);
            world_forget(&w);
        }
        CHECK(w.pid);
        text_add(&e2e_log, w.log.ptr, w.log.len);
        if (!rows[i].json)
            text_clear(&w.log);
        e2e_close(&w);
    }
}

/* Names from outside that are long or hostile: the line stays one line, and valid. */
static void test_e2e_log_hostile(void)
{
    static const char *const names[] = {"a\nb", "\"}\n{\"level\":\"INFO\"", "\xc3\xa9\xe2\x82\xac",
                                        "\\u0000", "{\"_aws\":1}"};
    textbuf name = {0}, told = {0}, sent = {0};
    world w;
    int n[2];
    if (!e2e_ready())
        return;
    world_open(&w);
    world_env(&w, "AWS_LAMBDA_FUNCTION_NAME");
    world_start(&w);
    for (iz i = 0; i <= countof(names); i++) {
        text_clear(&name);
        if (i < countof(names))
            text_puts(&name, names[i]);
        else
            text_opaque(&name, 60000);
        alexa_event e = {.type = "IntentRequest", .intent = name.ptr};
        event_make(&sent, &e);
        world_event v = {.event = text_str(&sent), .no_trace = 1};
        iz from = w.log.len;
        CHECK(world_invoke(&w, &v, 9000) == 'r' && world_idle(&w, 9000));
        e2e_told what = {.id = v.made_id};
        e2e_take_log(&w, from, 1, &what, &told, n);
        CHECK(n[0] == 1 && n[1] == 1);
        CHECK(!emf_fault(text_str(&told)) && told.len < 1200);
        CHECK(e2e_says(&told, "FunctionName", "unknown"));
        world_done(&v);
    }
    e2e_close(&w);
    text_free(&name), text_free(&told), text_free(&sent);
}

/* The times are those of what took them. Lower bounds alone: a machine may be slow. */
static void test_e2e_log_times(void)
{
    world_reply late = {.status = 503, .delay_ms = 60, .headers = "Retry-After: 0\r\n"};
    textbuf told = {0}, heard = {0};
    world w;
    int n[2];
    world_event v = {.answer = {.delay_ms = 70}};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    world_plan(&w, W_TFL, "/Line/", late);
    world_plan(&w, W_TFL, "/Line/", late);
    CHECK(e2e_ask_how(&w, &e2e_victoria, &v, &heard) == 'r' && world_idle(&w, 9000));
    e2e_told what = {.id = v.made_id, .traced = 1};
    e2e_take_log(&w, 0, 1, &what, &told, n);
    CHECK(n[0] == 1 && n[1] == 0);
    CHECK(e2e_number(&told, "stages.http") >= 120 && e2e_number(&told, "TflDuration") >= 120);
    CHECK(e2e_number(&told, "stages.respond") >= 70 && e2e_number(&told, "Duration") >= 190);
    CHECK(e2e_number(&told, "Retries") == 2 && e2e_number(&told, "tfl.tries") == 3);
    CHECK(e2e_number(&told, "tfl.status") == 200 && e2e_says(&told, "tfl.connection", "plain"));
    iz from = w.log.len;
    CHECK(e2e_ask_how(&w, &e2e_victoria, &v, &heard) == 'r' && world_idle(&w, 9000));
    what.id = v.made_id;
    e2e_take_log(&w, from, 1, &what, &told, n);
    CHECK(n[0] == 1 && e2e_says(&told, "tfl.connection", "kept"));
    CHECK(e2e_number(&told, "stages.connect") == -1 && e2e_number(&told, "stages.dns") == -1);
    world_done(&v);
    e2e_close(&w);
    text_free(&told), text_free(&heard);
}

/* The trace goes on to the preferences, whole, and to nobody else. */
static void test_e2e_trace(void)
{
    textbuf heard = {0}, value = {0};
    world w;
    world_event v = {0};
    const world_request *q = NULL;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    CHECK(e2e_ask_how(&w, &e2e_commute, &v, &heard) == 'r');
    CHECK(world_count(&w, W_PREFS, "/api/", &q) == 1);
    CHECK(q && head_value(&q->head, "X-Amzn-Trace-Id", &value) &&
          !strcmp(value.ptr, "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;"
                             "Sampled=1"));
    CHECK(world_count(&w, W_TFL, "/Line/", &q) == 1);
    CHECK(q && !strcasestr(q->head.ptr, "Trace-Id"));
    world_forget(&w);
    v.no_trace = 1;
    CHECK(e2e_ask_how(&w, &e2e_commute, &v, &heard) == 'r');
    CHECK(world_count(&w, W_PREFS, "/api/", &q) == 1 && !strcasestr(q->head.ptr, "Trace-Id"));
    world_done(&v);
    e2e_close(&w);
    text_free(&heard), text_free(&value);
}

/* ---- crashes ---- */

/* The bootstrap with symbols, where make puts it; addr2line and nm read those of both machines. */
static b32 crash_ready(char debug[300])
{
    snprintf(debug, 300, "%s.debug", world_bootstrap());
    b32 tools = !system("command -v addr2line >/dev/null && command -v nm >/dev/null");
    if (!tools || access(debug, R_OK)) {
        fprintf(stderr, "skipped: where a crash was needs binutils, and make %s\n", debug);
        skipped++;
        return 0;
    }
    return 1;
}

/* The output of a command, or "". */
static void crash_run(textbuf *out, const char *command)
{
    char part[1000];
    FILE *f = popen(command, "re");
    text_clear(out);
    for (size_t n; f && (n = fread(part, 1, sizeof part, f)) > 0;)
        text_add(out, part, (iz)n);
    if (f)
        pclose(f);
}

/* What /proc/PID/stat says the process is at: S for asleep. */
static char crash_state(const world *w)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", w->pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
        state = 0;
    if (f)
        fclose(f);
    return state;
}

/* Waits until the child is asleep in a system call. */
static b32 crash_asleep(world *w)
{
    for (int i = 0; i < 1000 && crash_state(w) != 'S'; i++)
        usleep(5000);
    return crash_state(w) == 'S';
}

/* The child has ended by a crash: one line, and the exit status. The functions that addr2line finds
 * behind its address hold `function`, or the line has no address where that is NULL. */
static void crash_check(world *w, int signal, const char *name, const char *section,
                        const char *function, iz from)
{
    char debug[300], command[400];
    textbuf place = {0}, where = {0}, last = {0};
    CHECK_ROW(world_wait_exit(w, 9000) == 128 + signal, name);
    CHECK(unit_count((str){(u8 *)w->log.ptr + from, w->log.len - from}, "\n") == 1);
    text_puts(&last, w->log.ptr + from);
    last.len -= last.len > 0;
    CHECK_ROW(e2e_says(&last, "level", "FATAL") && e2e_says(&last, "signal", name), last.ptr);
    CHECK_ROW(e2e_says(&last, "section", section), last.ptr);
    char kind = peek_json(text_str(&last), "address", &place);
    if (function && crash_ready(debug)) {
        snprintf(command, sizeof command, "addr2line -f -i -e %s %s", debug, place.ptr);
        crash_run(&where, command);
        CHECK_ROW(kind == 's' && text_has(&where, function), where.ptr);
        CHECK_ROW(text_has(&where, "skill.c:"), where.ptr);
    } else if (!function) {
        CHECK_ROW(!kind, last.ptr);
    }
    text_free(&place), text_free(&where), text_free(&last);
}

/* Each of the signals, sent from outside while the program waits; the next start works. */
static void test_e2e_crash_signals(void)
{
    static const struct {
        int signal;
        char name[8];
    } rows[] = {{SIGILL, "SIGILL"}, {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"},
                {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"},   {SIGSEGV, "SIGSEGV"}};
    world w;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < countof(rows); i++) {
        if (i % 2)
            CHECK(e2e_alive(&w));
        CHECK(world_idle(&w, 9000) && crash_asleep(&w));
        e2e_read_log(&w);
        iz from = w.log.len;
        kill(w.pid, rows[i].signal);
        crash_check(&w, rows[i].signal, rows[i].name, "12 Lambda Runtime API", "os_recv", from);
        CHECK(!strstr(w.log.ptr + from, "requestId"));
        world_start(&w);
        CHECK(e2e_alive(&w));
    }
    e2e_close(&w);
}

/* A crash inside an invocation tells which, and where: while TfL is waited for. */
static void test_e2e_crash_inside(void)
{
    world w;
    textbuf sent = {0};
    if (!e2e_ready())
        return;
    e2e_open(&w);
    CHECK(e2e_alive(&w) && world_idle(&w, 9000));
    e2e_read_log(&w);
    iz from = w.log.len;
    world_plan(&w, W_TFL, "/Line/", (world_reply){.status = 200, .delay_ms = 20000});
    event_make(&sent, &e2e_victoria);
    world_event v = {.event = text_str(&sent)};
    world_begin(&w, &v);
    for (int i = 0; i < 500 && !world_count(&w, W_TFL, "/Line/", NULL); i++)
        worlds_pump(&(world *){&w}, 1, 10);
    CHECK(world_count(&w, W_TFL, "/Line/", NULL) == 1 && crash_asleep(&w));
    kill(w.pid, SIGBUS);
    crash_check(&w, SIGBUS, "SIGBUS", "11 HTTP/1.1", "os_wait", from);
    CHECK(strstr(w.log.ptr + from, v.made_id) != NULL);
    CHECK(strstr(w.log.ptr + from, "\"1-5bef4de7-ad49b0e87f6ef6c87fc2e700\"") != NULL);
    w.current = NULL;
    world_start(&w);
    CHECK(e2e_alive(&w));
    world_done(&v);
    e2e_close(&w);
    text_free(&sent);
}

/* Before a restore there is no skill yet, and a line all the same. */
static void test_e2e_crash_restore(void)
{
    world w;
    if (!e2e_ready())
        return;
    restore_open(&w, 0);
    CHECK(restore_wait(&w) && crash_asleep(&w));
    kill(w.pid, SIGSEGV);
    crash_check(&w, SIGSEGV, "SIGSEGV", "12 Lambda Runtime API", "os_recv", 0);
    e2e_close(&w);
}

/* The address of a symbol in the image. */
static uz crash_symbol(const char *name)
{
    char debug[300], command[400];
    textbuf out = {0};
    uz at = 0;
    if (crash_ready(debug)) {
        snprintf(command, sizeof command, "nm %s | grep ' %s$'", debug, name);
        crash_run(&out, command);
        at = strtoul(out.ptr, NULL, 16);
    }
    text_free(&out);
    return at;
}

/* Where the image lies in the child: the first mapping of a file. The kernel may put its own pages
 * below it. */
static uz crash_base(const world *w)
{
    char path[64], row[4096];
    uz at = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", w->pid);
    FILE *f = fopen(path, "re");
    while (f && !at && fgets(row, sizeof row, f))
        if (strchr(row, '/'))
            at = strtoul(row, NULL, 16);
    if (f)
        fclose(f);
    return at;
}

typedef enum { CRASH_STACK_GONE, CRASH_TRAP, CRASH_NOWHERE, CRASH_HANDLER } crash_kind;

/* Makes the waiting child go wrong: without a stack, at the trap of the stack guard, at address 0,
 * or with a handler that faults itself. Its system call is not taken up again. */
static void crash_tamper(world *w, crash_kind kind)
{
    struct user_regs_struct regs;
    struct iovec all = {&regs, sizeof regs};
    int status;
    uz trap = crash_base(w) + crash_symbol("__stack_chk_fail");
    CHECK(!ptrace(PTRACE_ATTACH, w->pid, 0, 0) && waitpid(w->pid, &status, 0) == w->pid);
    CHECK(!ptrace(PTRACE_GETREGSET, w->pid, 1 /* NT_PRSTATUS */, &all));
#ifdef __x86_64__
    unsigned long long *pc = &regs.rip, *sp = &regs.rsp;
    regs.orig_rax = ~0ull;
#else
    unsigned long long *pc = &regs.pc, *sp = &regs.sp;
    int none = -1;
    struct iovec call = {&none, sizeof none};
    ptrace(PTRACE_SETREGSET, w->pid, 0x404 /* NT_ARM_SYSTEM_CALL */, &call);
#endif
    if (kind == CRASH_STACK_GONE)
        *sp = 4096;
    if (kind == CRASH_TRAP)
        *pc = trap;
    if (kind == CRASH_NOWHERE)
        *pc = 0;
    if (kind == CRASH_HANDLER) {
        uz at = crash_base(w) + crash_symbol("process_memory") + __builtin_offsetof(lambda, log);
        *pc = 0;
        CHECK(!ptrace(PTRACE_POKEDATA, w->pid, at, 8));
    }
    CHECK(!ptrace(PTRACE_SETREGSET, w->pid, 1, &all));
    CHECK(!ptrace(PTRACE_DETACH, w->pid, 0, 0));
}

/* Faults of the processor's own. Under a runner, whose child cannot be traced like this, it is
 * only asked whether that answers. */
static void test_e2e_crash_faults(void)
{
#ifdef __x86_64__ /* __builtin_trap is ud2, and brk on aarch64 */
    const int trap = SIGILL;
    const char *name = "SIGILL";
#else
    const int trap = SIGTRAP;
    const char *name = "SIGTRAP";
#endif
    const char *runner = getenv("RUNNER");
    char debug[300];
    world w;
    if (!e2e_ready() || !crash_ready(debug))
        return;
    e2e_open(&w);
    for (crash_kind kind = CRASH_STACK_GONE; kind <= CRASH_HANDLER; kind++) {
        CHECK(e2e_alive(&w) && world_idle(&w, 9000) && crash_asleep(&w));
        if (runner && *runner)
            break;
        e2e_read_log(&w);
        iz from = w.log.len;
        crash_tamper(&w, kind);
        if (kind == CRASH_STACK_GONE)
            crash_check(&w, SIGSEGV, "SIGSEGV", "12 Lambda Runtime API", "os_recv", from);
        else if (kind == CRASH_TRAP)
            crash_check(&w, trap, name, "12 Lambda Runtime API", "__stack_chk_fail", from);
        else if (kind == CRASH_NOWHERE)
            crash_check(&w, SIGSEGV, "SIGSEGV", "12 Lambda Runtime API", NULL, from);
        else
            CHECK(world_wait_exit(&w, 9000) == -1 && WTERMSIG(w.exit_status) == SIGSEGV &&
                  w.log.len == from);
        world_start(&w);
        CHECK(e2e_alive(&w));
    }
    e2e_close(&w);
}

/* ---- the long run, and what no log may hold ---- */

/* 10,000 invocations of every kind: memory and open files as after the first 100. Under a runner
 * the memory is the runner's, and a tenth is enough. */
static void test_e2e_ten_thousand(void)
{
    const char *runner = getenv("RUNNER");
    const char *soak = getenv("SOAK"); /* a longer run */
    iz rounds = soak ? atol(soak) : runner && *runner ? 1000 : 10000, memory = 0, files = 0;
    const alexa_event *events[] = {&e2e_victoria, &e2e_help, &e2e_commute, &e2e_disruption};
    world w;
    textbuf heard = {0}, type = {0};
    int wrong = 0;
    if (!e2e_ready())
        return;
    e2e_open(&w);
    for (iz i = 0; i < rounds; i++) {
        if (i % 50 == 49)
            wrong += !e2e_refused(&w, S("[1,2"), &type);
        else
            wrong += e2e_ask(&w, events[i % 4], &heard) != 'r' || !heard.len;
        if (i % 70 == 0)
            world_drop(&w, i % 4 ? W_TFL : W_PREFS, i & 1), world_drop(&w, W_API, 0);
        if (i == 99) {
            CHECK(world_idle(&w, 2000));
            memory = world_resident(&w), files = world_open_files(&w);
        }
        if (i % 100 == 99)
            world_forget(&w);
    }
    CHECK(wrong == 0);
    CHECK(world_idle(&w, 2000));
    CHECK(files > 0 && world_open_files(&w) == files);
    CHECK(memory > 0);
    CHECK((runner && *runner) || world_resident(&w) == memory);
    e2e_close(&w);
    text_free(&heard), text_free(&type);
}

/* Must run last: looks through what all of the above wrote. */
static void test_e2e_no_secret_in_any_log(void)
{
    static const char *const never[] = {
        "MARKER", "app_key", "app_id", "Bearer", "amzn1.ask.account", "/Status?", "Zm9vYmFy"};
    if (!e2e_ready())
        return;
    CHECK(e2e_log.len > 0);
    for (iz i = 0; i < countof(never); i++)
        CHECK(!text_has(&e2e_log, never[i]));
}

/* ---------------------------------------------------------------------------------------------
 * The benchmark (make bench)
 *
 * Starts each program afresh, one of each in a round, in random order: noise and what a neighbour
 * leaves in the caches hit all alike. Its own Lambda measures, from outside, what the kernel says
 * of the process: CPU time from /proc/PID/task/TID/schedstat, memory and faults from /proc/PID. A
 * first answer goes through DNS (a server of its own in a network namespace, else the name
 * localhost), TCP, TLS to nginx with a chain of P-256, P-384 and RSA-4096, and a bundle of 150
 * roots.
 *
 * The steps are taken in a child of this program, which is built with the product's flags: it runs
 * skill_run itself, and the platform's calls read the CPU clock. There each record of TLS is given
 * by itself.
 * ------------------------------------------------------------------------------------------ */

enum {
    BENCH_RUNS = 2000,
    BENCH_PROGRAMS = 6,
    BENCH_WARM = 5,
    BENCH_STEPS = 100,
    BENCH_ROOTS = 150
};

/* A 128 MB function has 1.447 ms in each 20 ms. */
enum { BENCH_QUOTA_US = 1447, BENCH_PERIOD_US = 20000 };

/* What is measured; a row of the table each. */
#define BENCH_FIGURES(X)                                           \
    X(START_WALL, "start, spawn to GET", "us")                     \
    X(START_CPU, "  CPU time of it", "us")                         \
    X(START_RSS, "  resident at the GET", "kB")                    \
    X(START_FAULTS, "  page faults", "")                           \
    X(START_CALLS, "  system calls before and with it", "")        \
    X(COLD_WALL, "start, file not in the page cache", "us")        \
    X(FIRST_WALL, "first answer, event to POST", "us")             \
    X(FIRST_CPU, "  CPU time, exec to POST", "us")                 \
    X(FIRST_PEAK, "  peak memory", "kB")                           \
    X(FIRST_FAULTS, "  page faults", "")                           \
    X(WARM_WALL, "warm answer, event to POST", "us")               \
    X(WARM_CPU, "  CPU time", "us")                                \
    X(QUOTA_WALL, "first answer, 128 MB quota, GET to POST", "us") \
    X(QUOTA_THROTTLED, "  periods throttled", "")

typedef enum {
#define X(name, what, unit) BENCH_##name,
    BENCH_FIGURES(X)
#undef X
        BENCH_FIGURE_COUNT
} bench_figure;

typedef struct {
    char name[40], path[300];
    b32 floor; /* it gives no real answer */
    struct {
        iz n;
        double at[BENCH_RUNS];
    } figure[BENCH_FIGURE_COUNT];
} bench_program;

/* One connection of a program to its Lambda. */
typedef struct {
    int fd;
    iz len;
    char buf[1 << 16];
} bench_wire;

static struct {
    bench_program program[BENCH_PROGRAMS];
    int programs, runs, listener, port, https_port;
    bench_wire wire[8];
    char dir[64], host[20], quota[100]; /* quota: the control group's directory, or "" */
    b32 quota_v2;
    pid_t nginx, dns;
    textbuf event, tls_url, roots;
    u64 seed;
} bench;

static void bench_add(bench_program *p, bench_figure f, double value)
{
    if (p->figure[f].n < BENCH_RUNS)
        p->figure[f].at[p->figure[f].n++] = value;
}

static int bench_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The quantile q of n values, by nearest rank; sorts them. */
static double bench_quantile(double *at, iz n, double q)
{
    qsort(at, (size_t)n, sizeof *at, bench_order);
    return n ? at[(iz)(q * (double)(n - 1) + 0.5)] : 0;
}

static double bench_median(bench_program *p, bench_figure f)
{
    return bench_quantile(p->figure[f].at, p->figure[f].n, 0.5);
}

/* ---- what the kernel says of a process ---- */

static const char *bench_file(const char *path)
{
    static char text[1 << 14];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    if (fd >= 0)
        close(fd);
    return text;
}

static const char *bench_proc(pid_t pid, const char *file)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    return bench_file(path);
}

static double bench_field(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtod(at + strlen(name), 0) : 0;
}

/* us on a processor, all threads together. */
static double bench_cpu(pid_t pid)
{
    char path[64];
    double ns = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "task/%.20s/schedstat", e->d_name);
        ns += strtod(bench_proc(pid, path), 0);
    }
    if (d)
        closedir(d);
    return ns / 1000;
}

/* Minor and major ones. */
static double bench_faults(pid_t pid)
{
    unsigned long minor = 0, major = 0;
    const char *at = strrchr(bench_proc(pid, "stat"), ')');
    if (at)
        sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %lu %*u %lu", &minor, &major);
    return (double)(minor + major);
}

/* ---- its Lambda ---- */

static void bench_hang_up(void)
{
    for (iz i = 0; i < countof(bench.wire); i++) {
        if (bench.wire[i].fd >= 0)
            close(bench.wire[i].fd);
        bench.wire[i].fd = -1;
    }
}

/* Is a whole request there? By its length, or by the last chunk. */
static b32 bench_whole(const bench_wire *w)
{
    const char *body = strstr(w->buf, "\r\n\r\n"), *length = strcasestr(w->buf, "content-length:");
    if (!body)
        return 0;
    body += 4;
    if (length && length < body)
        return w->buf + w->len - body >= atol(length + 15);
    const char *chunked = strcasestr(w->buf, "chunked");
    return !chunked || chunked > body || !strcmp(w->buf + w->len - 5, "0\r\n\r\n");
}

/* The wire on which the next request is whole, or null after two seconds. */
static bench_wire *bench_hear(void)
{
    i64 until = now_ns() + 2 * SECOND;
    while (now_ns() < until) {
        struct pollfd p[1 + countof(bench.wire)] = {{bench.listener, POLLIN, 0}};
        for (iz i = 0; i < countof(bench.wire); i++)
            p[1 + i] = (struct pollfd){bench.wire[i].fd, POLLIN, 0};
        if (poll(p, countof(p), 100) <= 0)
            continue;
        for (iz i = 0; i < countof(bench.wire); i++) {
            bench_wire *w = &bench.wire[i];
            if (w->fd < 0 && p[0].revents) {
                w->fd = accept4(bench.listener, 0, 0, SOCK_CLOEXEC);
                w->len = 0;
                p[0].revents = 0;
                continue;
            }
            if (w->fd < 0 || !p[1 + i].revents)
                continue;
            ssize_t n = read(w->fd, w->buf + w->len, sizeof w->buf - 1 - (size_t)w->len);
            if (n <= 0) {
                close(w->fd);
                w->fd = -1;
                continue;
            }
            w->len += n;
            w->buf[w->len] = 0;
            if (bench_whole(w))
                return w;
        }
    }
    return 0;
}

static void bench_say(bench_wire *w, const textbuf *t)
{
    w->len = 0;
    if (write(w->fd, t->ptr, (size_t)t->len) != t->len)
        w->len = 0; /* the next request will be missed */
}

static void bench_say_event(bench_wire *w)
{
    textbuf t = {0};
    text_format(&t,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                "Lambda-Runtime-Aws-Request-Id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n"
                "Lambda-Runtime-Deadline-Ms: %lld\r\nLambda-Runtime-Invoked-Function-Arn: "
                "arn:aws:lambda:eu-west-1:123456789012:function:alexa-london-travel\r\n"
                "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0\r\n"
                "Content-Length: %td\r\n\r\n%s",
                os_unix_ms() + 8000, bench.event.len, bench.event.ptr);
    bench_say(w, &t);
    text_free(&t);
}

static void bench_say_accepted(bench_wire *w)
{
    textbuf t = {0};
    text_puts(&t, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    bench_say(w, &t);
    text_free(&t);
}

static b32 bench_is_next(const bench_wire *w)
{
    return w && !strncmp(w->buf, "GET /2018-06-01/runtime/invocation/next ", 40);
}

static b32 bench_is_answer(const bench_program *p, const bench_wire *w)
{
    return w && !strncmp(w->buf, "POST ", 5) && strstr(w->buf, "/response ") &&
           (p->floor || strstr(w->buf, "good service"));
}

/* The environment of the programs. */
static char *const *bench_env(void)
{
    static char api[60], tfl[100], roots[120];
    static char *env[] = {"PATH=/usr/bin:/bin",
                          "TZ=:UTC",
                          "_HANDLER=bootstrap",
                          "LAMBDA_TASK_ROOT=/var/task",
                          "AWS_REGION=eu-west-1",
                          "AWS_LAMBDA_FUNCTION_NAME=alexa-london-travel",
                          "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
                          api,
                          tfl,
                          roots,
                          0};
    snprintf(api, sizeof api, "AWS_LAMBDA_RUNTIME_API=127.0.0.1:%d", bench.port);
    snprintf(tfl, sizeof tfl, "Skill__TflApiUrl=https://%s:%d/", bench.host, bench.https_port);
    snprintf(roots, sizeof roots, "SSL_CERT_FILE=%s/bundle", bench.dir);
    return env;
}

static pid_t bench_spawn(const bench_program *p)
{
    char *args[] = {(char *)(uz)p->path, 0};
    posix_spawn_file_actions_t quiet;
    pid_t pid;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    int error = posix_spawn(&pid, p->path, &quiet, 0, args, bench_env());
    posix_spawn_file_actions_destroy(&quiet);
    return error ? -1 : pid;
}

static void bench_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    bench_hang_up();
}

/* Until the process waits for the answer to its request, so that its books are complete. */
static void bench_settle(pid_t pid)
{
    for (int i = 0; i < 200; i++) {
        const char *at = strrchr(bench_proc(pid, "stat"), ')');
        if (at && at[1] == ' ' && at[2] == 'S')
            return;
        usleep(20);
    }
}

/* Drops a file's pages from the page cache. */
static void bench_evict(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

/* One start up to the first GET, and unless `cold` a first answer and some warm ones. */
static b32 bench_run(bench_program *p, b32 cold)
{
    if (cold)
        bench_evict(p->path);
    i64 start = now_ns();
    pid_t pid = bench_spawn(p);
    bench_wire *w = pid < 0 ? 0 : bench_hear();
    i64 heard = now_ns();
    b32 good = bench_is_next(w);
    if (good && cold) {
        bench_add(p, BENCH_COLD_WALL, (double)(heard - start) / 1e3);
    } else if (good) {
        bench_settle(pid);
        bench_add(p, BENCH_START_WALL, (double)(heard - start) / 1e3);
        bench_add(p, BENCH_START_CPU, bench_cpu(pid));
        bench_add(p, BENCH_START_FAULTS, bench_faults(pid));
        bench_add(p, BENCH_START_RSS, bench_field(bench_proc(pid, "smaps_rollup"), "Rss:"));
    }
    double cpu = 0;
    for (int i = 0; good && !cold && i <= BENCH_WARM; i++) {
        i64 asked = now_ns();
        bench_say_event(w);
        w = bench_hear();
        i64 answered = now_ns();
        good = bench_is_answer(p, w);
        bench_settle(pid);
        double spent = bench_cpu(pid);
        if (good && !p->floor) {
            bench_add(p, i ? BENCH_WARM_WALL : BENCH_FIRST_WALL, (double)(answered - asked) / 1e3);
            bench_add(p, i ? BENCH_WARM_CPU : BENCH_FIRST_CPU, spent - cpu);
        }
        if (good && !p->floor && !i) {
            bench_add(p, BENCH_FIRST_PEAK, bench_field(bench_proc(pid, "status"), "VmHWM:"));
            bench_add(p, BENCH_FIRST_FAULTS, bench_faults(pid));
        }
        cpu = spent;
        if (good) {
            bench_say_accepted(w);
            w = bench_hear();
            good = bench_is_next(w);
        }
    }
    if (pid > 0)
        bench_kill(pid);
    return good;
}

/* The program's own share and the kernel's of a warm answer, by the ticks of a long run. */
static void bench_warm_split(bench_program *p)
{
    enum { ANSWERS = 20000 };
    unsigned long user = 0, kernel = 0;
    pid_t pid = bench_spawn(p);
    bench_wire *w = bench_hear();
    for (int i = 0; i < ANSWERS && bench_is_next(w); i++) {
        bench_say_event(w);
        w = bench_hear();
        if (!bench_is_answer(p, w))
            break;
        bench_say_accepted(w);
        w = bench_hear();
    }
    const char *at = strrchr(bench_proc(pid, "stat"), ')');
    if (at)
        sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel);
    if (bench_is_next(w) && user + kernel)
        printf("%s: of a warm answer's CPU time %.0f us are its own, %.0f us the kernel's "
               "(%d answers)\n",
               p->name, (double)user * 1e6 / (double)sysconf(_SC_CLK_TCK) / ANSWERS,
               (double)kernel * 1e6 / (double)sysconf(_SC_CLK_TCK) / ANSWERS, ANSWERS);
    else
        failed++;
    bench_kill(pid);
}

/* ---- system calls: counted once, by ptrace ---- */

static void bench_count_calls(bench_program *p)
{
    char *args[] = {p->path, 0};
    long calls = 0;
    int status;
    pid_t pid = fork();
    if (!pid) {
        if (open("/dev/null", O_WRONLY) >= 0)
            dup2(open("/dev/null", O_WRONLY), 2);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execve(p->path, args, bench_env());
        _exit(127);
    }
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        return;
    ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, pid, 0, 0);
    for (pid_t who; calls < 100000 && (who = waitpid(-1, &status, __WALL)) > 0;) {
        struct pollfd f = {bench.listener, POLLIN, 0};
        calls += WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && !(status >> 16);
        if (bench.wire[0].fd < 0 && poll(&f, 1, 0) > 0)
            bench.wire[0].fd = accept4(bench.listener, 0, 0, SOCK_CLOEXEC);
        f.fd = bench.wire[0].fd;
        if (f.fd >= 0 && poll(&f, 1, 0) > 0)
            break;
        if (WIFSTOPPED(status))
            ptrace(PTRACE_SYSCALL, who, 0, 0);
    }
    bench_add(p, BENCH_START_CALLS, (double)(calls / 2)); /* a stop on the way in and one out */
    bench_kill(pid);
}

/* ---- the quota of a small function, by a control group ---- */

static b32 bench_write(const char *dir, const char *file, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    b32 good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return good;
}

/* A group with the quota: version 1's cpu controller, or version 2's. */
static void bench_quota_open(void)
{
    static const char *const roots[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup"};
    char text[60];
    for (iz i = 0; i < countof(roots) && !*bench.quota; i++) {
        snprintf(bench.quota, sizeof bench.quota, "%s/skill_bench_%d", roots[i], (int)getpid());
        bench.quota_v2 = i == 1;
        b32 made = !mkdir(bench.quota, 0755);
        snprintf(text, sizeof text, "%d %d", BENCH_QUOTA_US, BENCH_PERIOD_US);
        b32 good = bench.quota_v2 && bench_write(bench.quota, "cpu.max", text);
        snprintf(text, sizeof text, "%d", BENCH_PERIOD_US);
        if (!bench.quota_v2)
            good = bench_write(bench.quota, "cpu.cfs_period_us", text);
        snprintf(text, sizeof text, "%d", BENCH_QUOTA_US);
        if (!bench.quota_v2)
            good = good && bench_write(bench.quota, "cpu.cfs_quota_us", text);
        if (made && !good)
            rmdir(bench.quota);
        if (!good)
            bench.quota[0] = 0;
    }
}

static double bench_throttled(void)
{
    char path[200];
    snprintf(path, sizeof path, "%s/cpu.stat", bench.quota);
    return bench_field(bench_file(path), "nr_throttled ");
}

/* A first answer with the process put into the group at its first GET. */
static b32 bench_run_quota(bench_program *p)
{
    char id[20];
    pid_t pid = bench_spawn(p);
    bench_wire *w = pid < 0 ? 0 : bench_hear();
    b32 good = bench_is_next(w);
    if (good) {
        usleep(2 * BENCH_PERIOD_US); /* the group's budget is whole again */
        snprintf(id, sizeof id, "%d", (int)pid);
        good = bench_write(bench.quota, "cgroup.procs", id);
        double before = bench_throttled();
        i64 start = now_ns();
        bench_say_event(w);
        w = bench_hear();
        i64 end = now_ns();
        good = good && bench_is_answer(p, w);
        if (good) {
            bench_add(p, BENCH_QUOTA_WALL, (double)(end - start) / 1e3);
            bench_add(p, BENCH_QUOTA_THROTTLED, bench_throttled() - before);
        }
    }
    if (pid > 0)
        bench_kill(pid);
    return good;
}

/* ---- the surroundings: names, certificates, nginx ---- */

/* Answers every question for A with 127.0.0.1 and every other with nothing, for good. */
static void bench_dns_serve(int fd)
{
    static const u8 record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1};
    u8 m[600];
    struct sockaddr_in from;
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(fd, m, 512, 0, (struct sockaddr *)&from, &size);
        if (n < 17)
            continue;
        u8 a = m[n - 3] == 1;               /* A; the type ends two bytes before the class */
        m[2] = 0x81, m[3] = 0x80, m[7] = a; /* one record or none */
        if (a)
            memcpy(m + n, record, sizeof record);
        n += a ? (ssize_t)sizeof record : 0;
        sendto(fd, m, (size_t)n, 0, (struct sockaddr *)&from, size);
    }
}

/* A network and a mount namespace of our own with a name server, or false. */
static b32 bench_dns_open(void)
{
    char resolv[100];
    struct ifreq lo = {.ifr_name = "lo"};
    if (unshare(CLONE_NEWNET | CLONE_NEWNS))
        return 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ioctl(fd, SIOCGIFFLAGS, &lo);
    lo.ifr_flags |= IFF_UP;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(53)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(resolv, sizeof resolv, "%s/resolv.conf", bench.dir);
    FILE *f = fopen(resolv, "w");
    fprintf(f, "nameserver 127.0.0.1\n");
    fclose(f);
    b32 good = !ioctl(fd, SIOCSIFFLAGS, &lo) && !mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) &&
               !mount(resolv, "/etc/resolv.conf", 0, MS_BIND, 0) &&
               !bind(fd, (struct sockaddr *)&at, sizeof at);
    if (!good) {
        fprintf(stderr, "bench: a namespace without a name server\n");
        exit(1);
    }
    bench.dns = fork();
    if (!bench.dns) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bench_dns_serve(fd);
    }
    close(fd);
    return 1;
}

/* The chain of peers_pki, a leaf for the name, and a bundle in which our root stands last. */
static const char bench_pki[] =
    "mk tfl ica 30 DNS:tfl.test,DNS:localhost $E\n"
    "openssl genrsa -out many.key 2048\n"
    "for i in $(seq 149); do openssl req -x509 -key many.key -days 3650 -sha256 \\\n"
    "  -subj \"/C=GB/O=Trusted Names and Roots $i Limited/CN=Root Certification Authority R$i\" "
    "\\\n"
    "  -addext basicConstraints=critical,CA:true; done >bundle\n"
    "cat root.pem >>bundle; grep -c BEGIN bundle >roots\n"
    "mkdir -p Line/victoria\n";

static const char bench_tfl[] =
    "[{\"$type\":\"Tfl.Api.Presentation.Entities.Line, Tfl.Api.Presentation.Entities\",\"id\":"
    "\"victoria\",\"name\":\"Victoria\",\"modeName\":\"tube\",\"disruptions\":[],\"created\":"
    "\"2026-11-20T11:32:00.31Z\",\"modified\":\"2026-11-20T11:32:00.31Z\",\"lineStatuses\":[{"
    "\"$type\":\"Tfl.Api.Presentation.Entities.LineStatus, Tfl.Api.Presentation.Entities\",\"id\":"
    "0,\"statusSeverity\":10,\"statusSeverityDescription\":\"Good Service\",\"created\":"
    "\"0001-01-01T00:00:00\",\"validityPeriods\":[]}],\"routeSections\":[],\"serviceTypes\":[{"
    "\"$type\":\"Tfl.Api.Presentation.Entities.LineServiceTypeInfo, "
    "Tfl.Api.Presentation.Entities\",\"name\":\"Regular\",\"uri\":\"/Line/Route?ids=Victoria&"
    "serviceTypes=Regular\"}],\"crowding\":{\"$type\":\"Tfl.Api.Presentation.Entities.Crowding, "
    "Tfl.Api.Presentation.Entities\"}}]";

static b32 bench_pki_open(void)
{
    char text[300];
    snprintf(text, sizeof text, "%s/make", bench.dir);
    FILE *f = fopen(text, "w");
    if (!f)
        return 0;
    fputs(peers_pki, f);
    fputs(bench_pki, f);
    fprintf(f, "printf %%s '%s' >Line/victoria/Status\n", bench_tfl);
    fclose(f);
    snprintf(text, sizeof text, "cd %s && sh make >log 2>&1 || { cat log; exit 1; }", bench.dir);
    return !system(text);
}

static void bench_nginx_open(void)
{
    char path[100];
    int fd = world_listen(0);
    bench.https_port = world_port(fd);
    close(fd);
    snprintf(path, sizeof path, "%s/bench.conf", bench.dir);
    FILE *f = fopen(path, "w");
    fprintf(f,
            "daemon off; master_process off; pid %s/pid; error_log %s/nginx.log; events {}\n"
            "http { access_log off; client_body_temp_path t; proxy_temp_path t;\n"
            "fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t; ssl_protocols TLSv1.3;\n"
            "default_type application/json; keepalive_requests 100000;\n"
            "server { listen 127.0.0.1:%d ssl; ssl_certificate tfl.chain;\n"
            "ssl_certificate_key tfl.key; root %s; } }\n",
            bench.dir, bench.dir, bench.https_port, bench.dir);
    fclose(f);
    bench.nginx = fork();
    if (!bench.nginx) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("PATH", "/usr/sbin:/usr/bin:/bin", 1);
        execlp("nginx", "nginx", "-p", bench.dir, "-c", path, "-e", "/dev/null", (char *)0);
        _exit(127);
    }
    for (int tries = 0; tries < 100; tries++) {
        address to = {.ip = {127, 0, 0, 1}, .port = (u16)bench.https_port};
        i32 s;
        if (!os_connect(&s, &to, 0, os_monotonic() + SECOND)) {
            os_close(s);
            return;
        }
        usleep(20000);
    }
}

/* ---- the steps of a first answer ---- */

#define BENCH_STEP_NAMES(X)                          \
    X(START, "start: up to the first GET")           \
    X(EVENT, "event: received and parsed")           \
    X(DNS, "DNS")                                    \
    X(CONNECT, "connect")                            \
    X(HELLO, "ClientHello with key share")           \
    X(AGREE, "ServerHello: key agreement, keys")     \
    X(CHAIN, "certificates: whole check")            \
    X(VERIFY, "CertificateVerify: P-256 signature")  \
    X(FINISHED, "Finished, both ways")               \
    X(GET, "GET to TfL")                             \
    X(PARSE, "TfL's answer: received, opened, read") \
    X(RESPOND, "speech written and POSTed")

typedef enum {
#define X(name, what) STEP_##name,
    BENCH_STEP_NAMES(X)
#undef X
        STEP_COUNT
} bench_step;

static const char *const bench_step_names[] = {
#define X(name, what) what,
    BENCH_STEP_NAMES(X)
#undef X
};

/* Shared with the child that takes the steps. */
typedef struct {
    i64 spent[STEP_COUNT], last;
    int tcp, sends, records; /* TCP connections; what was sent and received on the second */
    i32 api, tls;            /* their descriptors */
    b32 asked, done;         /* a name has been asked for; the answer is out */
} bench_taken;

static bench_taken *bench_take; /* null but in that child */

/* What was spent since the last mark belongs to this step. */
static void bench_mark(bench_step step)
{
    i64 now = os_clock(CLOCK_THREAD_CPUTIME_ID);
    bench_take->spent[step] += now - bench_take->last;
    bench_take->last = os_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* Of the names, the first file that is looked at is /etc/hosts. */
static void bench_told_map(void)
{
    if (bench_take && bench_take->tcp == 1) {
        bench_mark(bench_take->asked ? STEP_DNS : STEP_EVENT);
        bench_take->asked = 1;
    }
}

/* Before a connect, and after it. */
static void bench_told_connect(b32 datagram, b32 after, i32 fd)
{
    bench_taken *t = bench_take;
    if (!t)
        return;
    bench_mark(!t->tcp ? STEP_START : datagram || !after ? STEP_DNS : STEP_CONNECT);
    if (after && !datagram)
        *(t->tcp++ ? &t->tls : &t->api) = fd;
}

/* After a send. On the second connection ClientHello, Finished and GET go out, in this order. */
static void bench_told_send(i32 fd)
{
    static const bench_step steps[] = {STEP_HELLO, STEP_FINISHED, STEP_GET};
    bench_taken *t = bench_take;
    if (!t)
        return;
    if (fd == t->tls)
        bench_mark(steps[t->sends < 2 ? t->sends : 2]);
    else
        bench_mark(fd != t->api ? STEP_DNS : t->tcp == 1 ? STEP_START : STEP_RESPOND);
    t->sends += fd == t->tls;
    if (fd == t->api && t->tcp == 2) {
        t->done = 1;
        _exit(0);
    }
}

/* Before a receive, when the record before it is worked off, and after it. The server's flight is
 * six records: ServerHello, change_cipher_spec, EncryptedExtensions, and the three below. */
static void bench_told_recv(i32 fd, b32 after)
{
    static const bench_step steps[] = {STEP_AGREE, STEP_AGREE,  STEP_AGREE,
                                       STEP_CHAIN, STEP_VERIFY, STEP_FINISHED};
    bench_taken *t = bench_take;
    if (!t)
        return;
    if (fd == t->tls && t->sends == 1) {
        int record = t->records - !after;
        bench_mark(record < 0 ? STEP_HELLO : steps[record < 5 ? record : 5]);
        t->records += after;
    } else {
        bench_mark(fd == t->tls ? STEP_PARSE : fd == t->api ? STEP_EVENT : STEP_DNS);
    }
}

/* How much a receive may give: a TLS stream's next record and no more. */
static iz bench_told_room(i32 fd, iz cap)
{
    u8 header[5];
    if (!bench_take || fd != bench_take->tls)
        return cap;
    os_wait(fd, POLLIN, os_monotonic() + SECOND);
    if (recv(fd, header, 5, MSG_PEEK) != 5)
        return cap;
    iz n = 5 + header[3] * 256 + header[4];
    return n < cap ? n : cap;
}

/* The CPU time of each step, in us, of one first answer. */
static b32 bench_steps_once(double us[STEP_COUNT])
{
    static u8 process_memory[PROCESS_BYTES], event_memory[INVOCATION_BYTES];
    bench_taken *shared =
        mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        arena process = arena_of(process_memory, PROCESS_BYTES);
        arena event = arena_of(event_memory, INVOCATION_BYTES);
        bench_take = shared;
        shared->tls = shared->api = -1;
        shared->last = os_clock(CLOCK_THREAD_CPUTIME_ID);
        _exit(skill_run(&process, &event, (const char *const *)bench_env()));
    }
    bench_wire *w = bench_hear();
    b32 good = bench_is_next(w);
    if (good) {
        bench_say_event(w);
        w = bench_hear();
        good = bench_is_answer(&bench.program[1], w);
    }
    if (!good)
        kill(pid, SIGKILL);
    waitpid(pid, 0, 0); /* it ends by itself, once it has read the clock after its POST */
    bench_hang_up();
    good = good && shared->done;
    for (int i = 0; i < STEP_COUNT; i++)
        us[i] = (double)shared->spent[i] / 1e3;
    munmap(shared, sizeof *shared);
    return good;
}

static double bench_steps[STEP_COUNT][BENCH_STEPS];

/* Runs it again and again and keeps the medians in the first column. */
static b32 bench_steps_take(void)
{
    for (int run = 0; run < BENCH_STEPS; run++) {
        double us[STEP_COUNT];
        if (!bench_steps_once(us))
            return 0;
        for (int i = 0; i < STEP_COUNT; i++)
            bench_steps[i][run] = us[i];
        fprintf(stderr, "\rsteps %d/%d ", run + 1, BENCH_STEPS);
    }
    for (int i = 0; i < STEP_COUNT; i++)
        bench_steps[i][0] = bench_quantile(bench_steps[i], BENCH_STEPS, 0.5);
    return 1;
}

/* ---- what is inside the check of certificates and the agreement of keys ---- */

#define BENCH_TIME(what, code)                                                      \
    do {                                                                            \
        double at[BENCH_STEPS];                                                     \
        for (int i_ = 0; i_ < BENCH_STEPS; i_++) {                                  \
            i64 start_ = os_clock(CLOCK_THREAD_CPUTIME_ID);                         \
            code;                                                                   \
            at[i_] = (double)(os_clock(CLOCK_THREAD_CPUTIME_ID) - start_) / 1e3;    \
        }                                                                           \
        printf("    %-44s %8.1f us\n", what, bench_quantile(at, BENCH_STEPS, 0.5)); \
    } while (0)

/* The certificates of a PEM file, decoded into `room`. */
static iz bench_certs(const char *name, str certs[], iz most, u8 *room)
{
    char path[100];
    pem_entry e;
    iz at = 0, n = 0;
    snprintf(path, sizeof path, "%s/%s", bench.dir, name);
    str file = os_map(path);
    for (; n < most && pem_next(file, &at, &e); n++, room += e.size) {
        pem_decode(&e, 0, e.size, room);
        certs[n] = (str){room, e.size};
    }
    return n;
}

static void bench_inside(void)
{
    static u8 room[1 << 14], secret[32], share[32], shared[32], text[150];
    static certificate leaf, ica, root;
    str certs[3];
    char path[100];
    iz n = bench_certs("tfl.chain", certs, 2, room);
    n += bench_certs("root.pem", certs + 2, 1, room + (1 << 13));
    invariant(n == 3);
    cert_decode(&leaf, certs[0]);
    cert_decode(&ica, certs[1]);
    cert_decode(&root, certs[2]);
    snprintf(path, sizeof path, "%s/bundle", bench.dir);
    x509_query q = {.host = S("tfl.test"), .bundle = os_map(path), .now = os_unix_ms() / 1000};
    err error = E_None;
    os_random(secret, 32);
    puts("\nInside these steps, each by itself with warm caches, CPU time, median");
    BENCH_TIME("X25519: our share", x25519_public(share, secret));
    BENCH_TIME("X25519: the shared secret", error |= x25519(shared, secret, share));
    BENCH_TIME("search of the bundle and whole check", error |= x509_verify(&q, certs, 2));
    BENCH_TIME("  RSA-4096: intermediate by root",
               error |= key_verify(&root.key, ica.sig, ica.signed_part, ica.signature));
    BENCH_TIME("  P-384: leaf by intermediate",
               error |= key_verify(&ica.key, leaf.sig, leaf.signed_part, leaf.signature));
    text[0] = 1;
    BENCH_TIME("P-256: CertificateVerify", ecdsa_verify(P256, leaf.key.point, (str){text, 32},
                                                        (str){share, 32}, (str){shared, 32}));
    printf("    %d roots in the bundle, %d signatures checked%s\n", (int)BENCH_ROOTS, (int)q.checks,
           error ? ": FAILED" : "");
}

/* ---- other people's clients: whole processes, and connections in a row ---- */

/* CPU time of a command in us, user and system; negative if it fails. */
static double bench_command(const char *format, int count)
{
    char text[700];
    struct rusage use;
    int status;
    unit_print(text, sizeof text, format, bench.host, bench.https_port, count);
    pid_t pid = fork();
    if (!pid) {
        if (chdir(bench.dir) || !freopen("log", "w", stdout) || !freopen("log2", "w", stderr))
            _exit(127);
        execl("/bin/sh", "sh", "-c", text, (char *)0);
        _exit(127);
    }
    if (wait4(pid, &status, 0, &use) != pid || status)
        return -1;
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* The number that stands before `word` in what the last command said; 0 if it is not there. */
static double bench_said(const char *word)
{
    char path[100];
    snprintf(path, sizeof path, "%s/log", bench.dir);
    const char *text = bench_file(path), *at = strstr(text, word);
    while (at && at > text && at[-1] != '\n')
        at--;
    return at ? strtod(at, 0) : 0;
}

/* Our own client's connections in a row, CPU time of each in us: from connect to Finished, in full
 * or resumed by the ticket that came with the answer before. */
static double bench_own_row(b32 resumed)
{
    static u8 memory[PROCESS_BYTES] __attribute__((aligned(16)));
    static connection c;
    static network net;
    static char roots[120];
    const char *env[] = {roots, 0};
    double at[BENCH_STEPS];
    arena process = arena_of(memory, countof(memory));
    snprintf(roots, sizeof roots, "SSL_CERT_FILE=%s/bundle", bench.dir);
    net = (network){.process = &process, .env = env};
    c.tls = 0;
    connection_init(&c, &net, (origin){unit_str(bench.host), (u16)bench.https_port, 1});
    for (iz i = -1; i < BENCH_STEPS; i++) { /* the first gives the first ticket */
        http_response r;
        iz tries = 0;
        i64 start = os_clock(CLOCK_THREAD_CPUTIME_ID);
        err error = connection_open(&c, os_monotonic() + 5 * SECOND);
        i64 end = os_clock(CLOCK_THREAD_CPUTIME_ID);
        if (i >= 0)
            at[i] = (double)(end - start) / 1e3;
        if (error || (i >= 0 && c.tls->resumed != resumed) ||
            http_get(&c, S("/Line/victoria/Status"), S(""), c.deadline, unit_arena(), &r, &tries))
            return -1;
        connection_close(&c);
        if (!resumed)
            wipe(&c.ticket, (iz)sizeof c.ticket);
    }
    return bench_quantile(at, BENCH_STEPS, 0.5);
}

static void bench_others(void)
{
    static const char s_time[] = "exec openssl s_time -connect %s:%d -CAfile bundle -verify 3 "
                                 "-new -time 2";
    static const char s_client[] = "exec openssl s_client -connect %s:%d -CAfile bundle "
                                   "-verify_return_error </dev/null";
    static const char curl[] = "exec curl -s --cacert bundle -H 'Connection: close' "
                               "'https://%s:%d/Line/victoria/Status?[1-%d]'";
    char get[400];
    snprintf(get, sizeof get, "SSL_CERT_FILE=bundle exec %.300s get https://%%s:%%d/",
             peers_self());
    puts("\nOther clients of the same server, CPU time (user and system)");
    printf("    %-44s %8.1f us\n", "this client, a connection in a row of them", bench_own_row(0));
    printf("    %-44s %8.1f us\n", "  the same, resumed by a ticket", bench_own_row(1));
    double used = bench_command(s_time, 0), made = bench_said(" connections in");
    if (used > 0 && made > 0)
        printf("    %-44s %8.1f us\n", "openssl s_time, likewise", used / made);
    double one = bench_command(curl, 1), many = bench_command(curl, 51);
    if (one > 0 && many > 0)
        printf("    %-44s %8.1f us\n", "curl, likewise", (many - one) / 50);
    printf("    %-44s %8.1f us\n", "skill_test get, the whole process", bench_command(get, 0));
    printf("    %-44s %8.1f us\n", "openssl s_client, the whole process",
           bench_command(s_client, 0));
    printf("    %-44s %8.1f us\n", "curl, the whole process", one);
}

/* ---- the report ---- */

static void bench_table(void)
{
    static const struct {
        const char *what, *unit;
    } rows[] = {
#define X(name, what, unit) {what, unit},
        BENCH_FIGURES(X)
#undef X
    };
    printf("\n%-38s %5s", "median (p90), against the floor", "");
    for (int i = 0; i < bench.programs; i++)
        printf(" %24s", bench.program[i].name);
    puts("");
    for (int f = 0; f < BENCH_FIGURE_COUNT; f++) {
        double floor = bench_median(&bench.program[0], (bench_figure)f);
        printf("%-38s %5s", rows[f].what, rows[f].unit);
        for (int i = 0; i < bench.programs; i++) {
            bench_program *p = &bench.program[i];
            iz n = p->figure[f].n;
            char text[60] = "-", ratio[20] = "";
            if (n && floor > 0 && f <= BENCH_COLD_WALL)
                snprintf(ratio, sizeof ratio, " %.2fx", bench_median(p, (bench_figure)f) / floor);
            if (n)
                snprintf(text, sizeof text, "%.0f (%.0f)%s", bench_median(p, (bench_figure)f),
                         bench_quantile(p->figure[f].at, n, 0.9), ratio);
            printf(" %24s", text);
        }
        puts("");
    }
    for (int i = 1; i < bench.programs; i++) {
        bench_program *p = &bench.program[i];
        iz n = p->figure[BENCH_QUOTA_THROTTLED].n, free = 0;
        for (iz j = 0; j < n; j++)
            free += p->figure[BENCH_QUOTA_THROTTLED].at[j] < 0.5;
        if (n)
            printf("%s: not throttled in %td of %td runs under the quota\n", p->name, free, n);
    }
}

enum { BENCH_BINS = 30 };

/* Counts a program's starts by their time; the last bin holds all that took longer. */
static int bench_bins(bench_program *p, double from, double step, int bins[BENCH_BINS])
{
    int most = 1;
    memset(bins, 0, BENCH_BINS * sizeof *bins);
    for (iz i = 0; i < p->figure[BENCH_START_WALL].n; i++) {
        int bin = (int)((p->figure[BENCH_START_WALL].at[i] - from) / step);
        bin = bin < 0 ? 0 : bin < BENCH_BINS ? bin : BENCH_BINS - 1;
        if (++bins[bin] > most)
            most = bins[bin];
    }
    return most;
}

static void bench_distribution(double from, double step)
{
    static const char levels[] = " .:-=+*#%@";
    int bins[BENCH_BINS];
    printf("\nstarts by their time, %.0f to %.0f us, the last column all above\n", from,
           from + step * BENCH_BINS);
    for (int i = 0; i < bench.programs; i++) {
        int most = bench_bins(&bench.program[i], from, step, bins);
        printf("%-12.12s |", bench.program[i].name);
        for (int b = 0; b < BENCH_BINS; b++)
            putchar(levels[(bins[b] * 9 + most - 1) / most]);
        puts("|");
    }
}

/* Start times of all programs as outlines, and one bar of the steps of a first answer. */
static void bench_svg(double from, double step)
{
    static const char *const colours[] = {"#8a8f98", "#c8102e", "#0019a8", "#007229",
                                          "#f68d2e", "#6950a1", "#00afad", "#b26300",
                                          "#e35d9a", "#3b7dd8", "#7d7d00", "#444444"};
    char path[500];
    int bins[BENCH_BINS];
    double at = 60, total = 0;
    snprintf(path, sizeof path, "%.400s", peers_self());
    snprintf(strrchr(path, '/'), 20, "/bench.svg");
    FILE *f = fopen(path, "w");
    if (!f)
        return;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 620\" "
            "font-family=\"sans-serif\" font-size=\"14\">\n"
            "<rect width=\"960\" height=\"620\" fill=\"white\"/>\n"
            "<text x=\"60\" y=\"30\" font-size=\"18\">Start: spawn to the first GET, %td runs of "
            "each</text>\n",
            bench.program[0].figure[BENCH_START_WALL].n);
    for (int i = 0; i < bench.programs; i++) {
        int most = bench_bins(&bench.program[i], from, step, bins);
        fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"60,260",
                colours[i]);
        for (int b = 0; b < BENCH_BINS; b++)
            fprintf(f, " %d,%.1f %d,%.1f", 60 + b * 28, 260 - 200.0 * bins[b] / most, 88 + b * 28,
                    260 - 200.0 * bins[b] / most);
        fprintf(f,
                " 900,260\"/>\n<rect x=\"640\" y=\"%d\" width=\"14\" height=\"14\" fill=\"%s\"/>"
                "<text x=\"662\" y=\"%d\">%.30s, median %.0f us</text>\n",
                48 + 22 * i, colours[i], 60 + 22 * i, bench.program[i].name,
                bench_median(&bench.program[i], BENCH_START_WALL));
    }
    for (int b = 0; b <= BENCH_BINS; b += 5)
        fprintf(f, "<text x=\"%d\" y=\"280\" text-anchor=\"middle\">%.0f</text>\n", 60 + b * 28,
                from + step * b);
    for (int i = 0; i < STEP_COUNT; i++)
        total += bench_steps[i][0];
    fprintf(f,
            "<text x=\"60\" y=\"330\" font-size=\"18\">A first answer: %.0f us of CPU by its "
            "steps</text>\n",
            total);
    for (int i = 0; i < STEP_COUNT && total > 0; i++) {
        double us = bench_steps[i][0], width = 840 * us / total;
        fprintf(f,
                "<rect x=\"%.1f\" y=\"345\" width=\"%.1f\" height=\"44\" fill=\"%s\"/>\n"
                "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" fill=\"%s\"/>"
                "<text x=\"%d\" y=\"%d\">%s: %.0f us</text>\n",
                at, width, colours[i], 60 + i / 6 * 420, 410 + 32 * (i % 6), colours[i],
                82 + i / 6 * 420, 422 + 32 * (i % 6), bench_step_names[i], us);
        at += width;
    }
    fprintf(f, "</svg>\n");
    fclose(f);
    printf("\ndrawn: %s\n", path);
}

static void bench_sizes(void)
{
    static const char *const files[] = {"bootstrap", "aarch64/bootstrap", "x86_64/bootstrap",
                                        "skill-aarch64.zip", "skill-x86_64.zip"};
    char path[500];
    struct stat st;
    for (iz i = 0; i < countof(files); i++) {
        snprintf(path, sizeof path, "%.400s", peers_self());
        snprintf(strrchr(path, '/') + 1, 40, "%s", files[i]);
        if (!stat(path, &st))
            printf("%-38s %8ld bytes\n", files[i], (long)st.st_size);
    }
}

/* ---- the whole ---- */

static void bench_round(b32 (*run)(bench_program *p), const char *what, int rounds, int first)
{
    for (int round = 0; round < rounds; round++) {
        int order[BENCH_PROGRAMS];
        for (int i = first; i < bench.programs; i++) {
            u8 r;
            test_fill(&bench.seed, &r, 1);
            int j = first + r % (i - first + 1);
            order[i] = order[j];
            order[j] = i;
        }
        for (int i = first; i < bench.programs; i++)
            if (!run(&bench.program[order[i]]))
                failed++;
        fprintf(stderr, "\r%s %d/%d ", what, round + 1, rounds);
    }
    fprintf(stderr, "\n");
}

static b32 bench_run_warm(bench_program *p)
{
    return bench_run(p, 0);
}

static b32 bench_run_cold(bench_program *p)
{
    return bench_run(p, 1);
}

/* PEER, "name=path": one program more. */
static void bench_programs(void)
{
    const char *asked = getenv("PEER");
    bench_program *p = bench.program;
    char self[400];
    snprintf(self, sizeof self, "%.300s", peers_self());
    *strrchr(self, '/') = 0;
    snprintf(p->name, sizeof p->name, "floor");
    snprintf(p->path, sizeof p->path, "%.280s/floor", self);
    p++->floor = 1;
    snprintf(p->name, sizeof p->name, "bootstrap");
    snprintf(p++->path, sizeof p->path, "%.280s", world_bootstrap());
    if (asked && strchr(asked, '=')) {
        snprintf(p->name, sizeof p->name, "%.*s", (int)strcspn(asked, "="), asked);
        snprintf(p++->path, sizeof p->path, "%.280s", strchr(asked, '=') + 1);
    }
    bench.programs = (int)(p - bench.program);
}

static void bench_close(void)
{
    char text[200];
    kill(bench.nginx, SIGKILL);
    waitpid(bench.nginx, 0, 0);
    if (bench.dns > 0) {
        kill(bench.dns, SIGKILL);
        waitpid(bench.dns, 0, 0);
    }
    if (*bench.quota)
        rmdir(bench.quota);
    snprintf(text, sizeof text, "rm -rf %s", bench.dir);
    failed += system(text) != 0;
}

static int command_bench(void)
{
    const char *asked = getenv("BENCH_RUNS");
    setvbuf(stdout, 0, _IOLBF, BUFSIZ); /* nothing is left for a child to print again */
    bench.runs = asked ? atoi(asked) : 300;
    bench.seed = (u64)now_ns() | 1;
    if (bench.runs < 1 || bench.runs > BENCH_RUNS / BENCH_WARM) {
        fprintf(stderr, "BENCH_RUNS: 1 to %d\n", BENCH_RUNS / BENCH_WARM);
        return 2;
    }
    snprintf(bench.dir, sizeof bench.dir, "/tmp/skill_bench.XXXXXX");
    if (system(
            "PATH=$PATH:/usr/sbin; command -v openssl >/dev/null && command -v nginx >/dev/null")) {
        printf("make bench needs openssl and nginx. To install: openssl nginx-light\n");
        return 1;
    }
    for (iz i = 0; i < countof(bench.wire); i++)
        bench.wire[i].fd = -1;
    if (!mkdtemp(bench.dir) || !bench_pki_open()) {
        fprintf(stderr, "bench: no certificates\n");
        return 1;
    }
    b32 named = bench_dns_open();
    snprintf(bench.host, sizeof bench.host, named ? "tfl.test" : "localhost");
    bench.listener = world_listen(0);
    bench.port = world_port(bench.listener);
    bench_nginx_open();
    bench_programs();
    bench_quota_open();
    event_make(&bench.event, &e2e_victoria);
    for (int i = 0; i < bench.programs; i++)
        bench_count_calls(&bench.program[i]);
    bench_round(bench_run_warm, "starts and answers", bench.runs, 0);
    bench_round(bench_run_cold, "cold starts", (bench.runs + 4) / 5, 0);
    if (*bench.quota)
        bench_round(bench_run_quota, "under the quota", (bench.runs + 2) / 3, 1);
    b32 stepped = bench_steps_take();
    fprintf(stderr, "\n");
    double from = bench_quantile(bench.program[0].figure[BENCH_START_WALL].at,
                                 bench.program[0].figure[BENCH_START_WALL].n, 0.02);
    double step = (2 * bench_median(&bench.program[1], BENCH_START_WALL) - from) / BENCH_BINS;
    bench_table();
    bench_warm_split(&bench.program[1]);
    bench_sizes();
    if (!named)
        puts("no namespace (root is needed): the host is localhost, without DNS");
    if (!*bench.quota)
        puts("no control group for CPU: nothing is measured under a quota");
    bench_distribution(from, step);
    puts("\nSteps of a first answer, CPU time, median");
    for (int i = 0; i < STEP_COUNT; i++)
        printf("    %-44s %8.1f us\n", bench_step_names[i], bench_steps[i][0]);
    failed += !stepped;
    bench_inside();
    bench_others();
    bench_svg(from, step);
    bench_close();
    printf("%d runs failed\n", failed);
    return failed > 0;
}

/* ---------------------------------------------------------------------------------------------
 * Commands
 * ------------------------------------------------------------------------------------------ */

/* One name=value pair of a line of vectors, as text; a null pointer if it is not there. */
static str vector_field(str text, const char *name)
{
    while (text.len) {
        str value = str_cut(&text, ' '), key = str_cut(&value, '=');
        if (str_is(key, name))
            return value;
    }
    return (str){0, 0};
}

/* Hexadecimal digits as bytes, in memory of its own; a null pointer if they are none. */
static str vector_bytes(str text, const char *name)
{
    str hex = vector_field(text, name);
    if (!hex.ptr || hex.len % 2)
        return (str){0, 0};
    u8 *bytes = malloc((size_t)hex.len / 2 + 1);
    for (iz i = 0; i < hex.len / 2; i++) {
        i32 high = hex_value(hex.ptr[2 * i]), low = hex_value(hex.ptr[2 * i + 1]);
        if (high < 0 || low < 0)
            return (str){0, 0};
        bytes[i] = (u8)(high << 4 | low);
    }
    return (str){bytes, hex.len / 2};
}

static const char *row_field(const char *row, const char *name)
{
    char want[32];
    snprintf(want, sizeof want, "%s=", name);
    for (const char *at = row; (at = strstr(at, want)); at++)
        if (at == row || at[-1] == ' ')
            return at + strlen(want);
    return "";
}

/* One line, ended by NUL: 1 passed, 0 failed, -1 not readable. */
static int vector_line(str text)
{
    str alg = vector_field(text, "alg"), expect = vector_field(text, "expect");
    int valid = str_is(expect, "valid");
    if (!valid && !str_is(expect, "invalid"))
        return -1;
    if (str_is(alg, "json")) {
        str bytes = vector_bytes(text, "text");
        return bytes.ptr ? vector_json(bytes, valid) : -1;
    }
    if (str_is(alg, "http")) {
        str response = vector_bytes(text, "response"), body = vector_bytes(text, "body");
        str status = vector_field(text, "status");
        u64 number = 0;
        if (!response.ptr || (valid && (!body.ptr || !str_to_uint(status, 999, &number))))
            return -1;
        return vector_http(response, body, (i32)number, valid);
    }
    if (str_is(alg, "x509")) {
        const char *row = (const char *)text.ptr;
        int accepted =
            x509_row(row_field(row, "leaf"), row_field(row, "chain"), row_field(row, "roots"),
                     row_field(row, "host"), row_field(row, "time"));
        return accepted == valid;
    }
    if (str_is(alg, "dns")) {
        str reply = vector_bytes(text, "reply"), query = vector_field(text, "query");
        str addresses = vector_field(text, "addr");
        if (!reply.ptr || !query.ptr || !addresses.ptr)
            return -1;
        char *of = strndup((const char *)query.ptr, (size_t)query.len);
        char *to = strndup((const char *)addresses.ptr, (size_t)addresses.len);
        int accepted = dns_vector(of, reply, to);
        free(of);
        free(to);
        free((void *)(uz)reply.ptr);
        return accepted == valid;
    }
    int result = vector_symmetric((const char *)text.ptr, os_cpu_aes(0));
    if (result != VECTOR_FOREIGN)
        return result == VECTOR_BAD ? -1 : result;
    result = vector_public((const char *)text.ptr);
    return result < 0 ? -1 : result == valid;
}

static int vectors_file(const char *path)
{
    char *text = NULL;
    size_t cap = 0;
    FILE *f = fopen(path, "r");
    if (!f) {
        perror(path);
        failed++;
        return 1;
    }
    for (ssize_t n; (n = getline(&text, &cap, f)) >= 0;) {
        str row = str_trim((str){(const u8 *)text, (iz)n});
        text[row.ptr + row.len - (const u8 *)text] = 0;
        if (!row.len || row.ptr[0] == '#')
            continue;
        int result = vector_line(row);
        str id = vector_field(row, "id");
        passed += result == 1;
        failed += result != 1;
        if (result != 1)
            printf("%s: %.*s\n", result ? "cannot read" : "failed", (int)id.len,
                   id.ptr ? (const char *)id.ptr : "?");
    }
    free(text);
    fclose(f);
    return 0;
}

static int command_vectors(int count, char **files)
{
    script.on = 1;
    for (int i = 0; i < count; i++)
        vectors_file(files[i]);
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

/* ---- get: one URL, by the skill's own client ---- */

/* With -v, a line on stderr: ms since the start and since the last line, and what happened. */
static void get_tell(const char *format, ...)
{
    if (!get_state.tell)
        return;
    i64 now = os_monotonic();
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%9.3f ms  +%8.3f  ", (double)(now - get_state.start) / 1e6,
            (double)(now - get_state.last) / 1e6);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    get_state.last = os_monotonic();
}

static const char *get_address(const address *a)
{
    static u8 text[80];
    writer w = writer_of(text, sizeof text - 1);
    if (a->v6)
        put_byte(&w, '[');
    put_address(&w, a);
    put_text(&w, a->v6 ? "]:" : ":");
    put_uint(&w, a->port, 1);
    text[w.len] = 0;
    return (const char *)text;
}

static void get_tell_address(const address *to, b32 datagram, err error)
{
    get_tell("%s %s: %s", datagram ? "UDP to" : "TCP to", get_address(to),
             error ? unit_error(error) : "connected");
}

/* The first CN, or else the first O, of a Name in DER, for people to read. */
static str get_name_of(str name)
{
    for (iz last = 3; last <= 10; last += 7) /* 2.5.4.3 and 2.5.4.10 */
        for (iz i = 0; i + 7 < name.len; i++) {
            const u8 oid[] = {6, 3, 0x55, 4, (u8)last};
            iz n = name.ptr[i + 6];
            if (!memcmp(name.ptr + i, oid, 5) && n < 128 && i + 7 + n <= name.len)
                return str_span(name, i + 7, i + 7 + n);
        }
    return S("(no name)");
}

static void get_tell_tls(const tls *t)
{
    static u8 der[CERT_ROOT_SIZE];
    static const char *const suites[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                                         "TLS_CHACHA20_POLY1305_SHA256"};
    certificate root;
    get_tell("TLS 1.3, %s, %s%s", t->suite ? suites[t->suite - 0x1301] : "no suite",
             t->group == TLS_X25519 ? "x25519" : "secp256r1",
             t->retried ? " by HelloRetryRequest" : "");
    if (t->resumed)
        get_tell("resumed by a ticket of the connection before");
    if (!t->query.path_len)
        return;
    char path[200] = "";
    for (iz i = 0; i < t->query.path_len; i++)
        snprintf(path + strlen(path), sizeof path - strlen(path), "%s%d", i ? ", " : "",
                 (int)t->query.path[i]);
    if (!pem_decode(&t->query.root, 0, t->query.root.size, der))
        return;
    cert_decode(&root, (str){der, t->query.root.size});
    str name = get_name_of(root.subject);
    get_tell("chain: %s of those sent, then root \"%.*s\"; %d signatures checked", path,
             (int)name.len, name.ptr, (int)t->query.checks);
}

static int get_failed(err error)
{
    str sentence, name = err_name(error, &sentence);
    fprintf(stderr, "%.*s: %.*s\n", (int)name.len, name.ptr, (int)sentence.len, sentence.ptr);
    return 1;
}

/* --resolve HOST:PORT:ADDRESS, by an entry in the cache of DNS that outlasts the command. */
static err get_resolve(network *net, str where, const origin *to)
{
    iz colon = where.len;
    dns_name name;
    address a;
    while (colon && where.ptr[colon - 1] != ':' && str_at(where, where.len - 1) != ']')
        colon--;
    while (colon && str_at(where, where.len - 1) == ']' && where.ptr[colon - 1] != '[')
        colon--;
    colon -= str_at(where, colon - 1) == '[';
    if (!colon || address_of(str_from(where, colon), &a))
        return E_AddressInvalid;
    char place[400];
    unit_print(place, sizeof place, "%.*s:%d", (int)to->host.len, to->host.ptr, to->port);
    if (!str_eq_nocase(str_span(where, 0, colon - 1), unit_str(place)))
        return E_None;
    if (dns_name_of(to->host, &name))
        return E_None; /* an address: it stands for itself */
    dns_entry *entry = &net->dns.entries[0];
    entry->name = name;
    entry->until = os_monotonic() + 3600 * SECOND;
    entry->answer.count = 1;
    entry->answer.at[0] = a;
    return E_None;
}

static int get_usage(void)
{
    fprintf(stderr, "usage: skill_test get [-v] [--resolve HOST:PORT:ADDRESS] URL...\n");
    return 2;
}

/* With -v: the addresses, then the connection with all that is known of it. */
static err get_open(connection *c, i64 deadline)
{
    dns_answer found;
    err error = dns_resolve(&c->net->dns, c->to.host, deadline, &found);
    for (iz i = 0; i < found.count; i++) {
        found.at[i].port = c->to.port;
        get_tell("address of %.*s: %s", (int)c->to.host.len, c->to.host.ptr,
                 get_address(&found.at[i]));
    }
    if (!error)
        error = connection_open(c, deadline);
    if (c->tls)
        get_tell_tls(c->tls);
    c->kept = 0;
    return error;
}

/* Fetches one URL. Status line (without the phrase, which the client does not keep) and body go to
 * stdout; the error's name and sentence to stderr. What the client takes for an answer is success,
 * a 404 too; one that is still 408, 429 or 5xx after its repeats is printed, and an error. */
static int get_one(connection *c, network *net, const char *place, str resolve)
{
    origin to;
    http_response r = {0};
    iz tries = 0;
    i64 deadline = os_monotonic() + INVOCATION_BUDGET;
    str whole = unit_str(place), target = str_cut(&whole, '#');
    err error = url_origin(&target, 0, &to);
    if (!error && !origin_is_safe(&to))
        error = E_UrlInsecure;
    if (!error && resolve.ptr)
        error = get_resolve(net, resolve, &to);
    if (error)
        return get_failed(error);
    connection_init(c, net, to);
    if (get_state.tell)
        error = get_open(c, deadline);
    if (!error)
        error = http_get(c, target, S(""), deadline, unit_arena(), &r, &tries);
    get_tell("%s, %d requests", error ? unit_error(error) : "answered", (int)tries);
    if (error && error != E_HttpBusy)
        return get_failed(error);
    get_tell("status %d, %td bytes", r.status, r.body.len);
    printf("HTTP/1.1 %d\n", r.status);
    fwrite(r.body.ptr, 1, (size_t)r.body.len, stdout);
    fflush(stdout);
    connection_close(c);
    return error ? get_failed(error) : 0;
}

/* One URL after another, each over a connection of its own; a ticket is kept between them. */
static int command_get(int count, char **args)
{
    extern char **environ;
    static u8 memory[PROCESS_BYTES] __attribute__((aligned(16)));
    static connection c;
    static network net;
    arena process = arena_of(memory, countof(memory));
    str resolve = {0, 0};
    for (; count && args[0][0] == '-'; args++, count--) {
        if (!strcmp(args[0], "-v"))
            get_state.tell = get_state.keep_maps = 1;
        else if (!strcmp(args[0], "--resolve") && count > 1)
            resolve = unit_str(*++args), count--;
        else
            return get_usage();
    }
    if (count < 1)
        return get_usage();
    get_state.start = get_state.last = os_monotonic();
    net = (network){.process = &process, .env = (const char *const *)environ};
    int wrong = 0;
    for (; count; count--)
        wrong |= get_one(&c, &net, *args++, resolve);
    return wrong;
}

#ifdef FUZZ

/* For libFuzzer (make fuzz): the first byte chooses what is fed. */
int LLVMFuzzerTestOneInput(const u8 *data, size_t n);
int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    if (n)
        fuzz_entry[data[0] % countof(fuzz_entry)](data + 1, (iz)n - 1);
    return 0;
}

#elif defined CT

/* ---- make ct: no branch and no address depends on a secret ----
 *
 * Secrets are marked undefined; valgrind's memcheck then counts every branch and every index that
 * depends on them. This program is built with the product's flags. aead_open's verdict is its one
 * branch on a value made of secrets, and x25519_public's invariant one on a public one: one report
 * for each. The last two rows are leaks on purpose, which must be seen: a check that cannot fail
 * shows nothing. */

static int ct_wrong;

static void ct_secret(void *p, iz n)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(p, n);
}

static void ct_public(void *p, iz n)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(p, n);
}

static void ct_expect(const char *what, unsigned since, unsigned want)
{
    unsigned leaks = (unsigned)VALGRIND_COUNT_ERRORS - since;
    b32 good = want == ~0u ? leaks > 0 : leaks == want;
    ct_wrong += !good;
    printf("%-28s %u secret-dependent%s\n", what, leaks, good ? "" : " WRONG");
}

static void ct_aead(aead_id id, const char *name, b32 right_tag)
{
    aead a;
    u8 key[32] = {1}, nonce[12] = {2}, aad[5] = {3}, data[203] = {4}, tag[16];
    unsigned since = (unsigned)VALGRIND_COUNT_ERRORS;
    ct_secret(key, sizeof key);
    ct_secret(data, sizeof data);
    aead_init(&a, id, key);
    aead_seal(&a, nonce, (str){aad, 5}, data, sizeof data, tag);
    ct_expect(name, since, 0);

    since = (unsigned)VALGRIND_COUNT_ERRORS;
    ct_public(data, sizeof data); /* what the wire shows */
    ct_public(tag, sizeof tag);
    tag[3] ^= !right_tag;
    err error = aead_open(&a, nonce, (str){aad, 5}, data, sizeof data, tag);
    ct_public(&error, sizeof error);
    ct_wrong += error != (right_tag ? E_None : E_AeadTag);
    ct_expect("  its opening", since, 1);
}

static void ct_x25519(void)
{
    u8 secret[32] = {5}, share[32], shared[32];
    unsigned since = (unsigned)VALGRIND_COUNT_ERRORS;
    ct_secret(secret, sizeof secret);
    x25519_public(share, secret);
    /* The key share is public, and so is that it is not zero: the invariant's branch. */
    ct_expect("x25519_public", since, 1);
    ct_public(share, sizeof share);
    since = (unsigned)VALGRIND_COUNT_ERRORS;
    err error = x25519(shared, secret, share);
    ct_public(&error, sizeof error);
    ct_expect("x25519", since, 0);
    ct_wrong += error != E_None;
}

static void ct_hash(hash_id id, const char *name)
{
    u8 secret[200] = {6}, out[HASH_MAX], key[150];
    unsigned since = (unsigned)VALGRIND_COUNT_ERRORS;
    ct_secret(secret, sizeof secret);
    hash_of(id, (str){secret, sizeof secret}, out);
    hmac(id, (str){secret, sizeof secret}, (str){secret, sizeof secret}, out);
    hkdf_extract(id, (str){secret, 48}, (str){secret, 32}, out);
    hkdf_expand_label(id, (str){out, hash_size(id)}, S("key"), S(""), key, sizeof key);
    ct_expect(name, since, 0);
}

/* What a mask is for, done badly: as a branch and as an index. */
static void ct_leaks(void)
{
    static const u8 table[2] = {7, 8};
    u8 secret[2] = {1, 1};
    volatile u8 sink;
    unsigned since = (unsigned)VALGRIND_COUNT_ERRORS;
    ct_secret(secret, sizeof secret);
    sink = 0;
    if (*(volatile u8 *)secret & 1)
        sink = 1;
    ct_expect("leak by branch (must show)", since, ~0u);
    since = (unsigned)VALGRIND_COUNT_ERRORS;
    sink = ((const volatile u8 *)table)[secret[1] & 1];
    ct_expect("leak by index (must show)", since, ~0u);
    (void)sink;
}

static void ct_p256(void)
{
    static const struct {
        u8 secret[32];
        int good;
        char name[32];
    } rows[] = {
        {{0x12, [7] = 0x34, [31] = 0x56}, 1, "p256, an even scalar"},
        {{0xfe, [9] = 0x77, [31] = 0x9b}, 1, "p256, an odd scalar"},
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0, "p256, a scalar too large"},
        {{0}, 0, "p256, the scalar 0"},
    };
    u8 secret[32], own[65], shared[32], theirs[65];
    ct_wrong += p256_public(theirs, rows[1].secret) != E_None;
    for (iz i = 0; i < countof(rows); i++) {
        unsigned since = (unsigned)VALGRIND_COUNT_ERRORS;
        copy(secret, rows[i].secret, 32);
        ct_secret(secret, 32);
        err first = p256_public(own, secret), second = p256_ecdh(shared, secret, (str){theirs, 65});
        ct_expect(rows[i].name, since, 0);
        ct_public(&first, sizeof first);
        ct_public(&second, sizeof second);
        ct_wrong += (first == E_None) != rows[i].good || (second == E_None) != rows[i].good;
    }
}

/* For a trace of the instructions under qemu, where there is no valgrind: one operation with the
 * secrets of this seed, all else the same. Two traces must not differ. "leak" must. */
static int ct_trace(const char *what, u64 seed)
{
    u8 secret[32], data[203] = {4}, tag[16], out[65], nonce[12] = {2};
    static const u8 theirs[65] = {9};
    test_fill(&seed, secret, 32);
    test_fill(&seed, data, sizeof data);
    if (!strcmp(what, "chacha20-poly1305") || !strcmp(what, "aes-256-gcm")) {
        aead a;
        aead_init(&a, *what == 'c' ? CHACHA20_POLY1305 : AES_256_GCM, secret);
        aead_seal(&a, nonce, (str){nonce, 12}, data, sizeof data, tag);
        aead_open(&a, nonce, (str){nonce, 12}, data, sizeof data, tag);
    } else if (!strcmp(what, "x25519")) {
        x25519_public(out, secret);
        x25519(out, secret, theirs);
    } else if (!strcmp(what, "p256")) {
        secret[0] = 1; /* below the order; odd or even, as it comes */
        u8 base[65];
        static const u8 one[32] = {[31] = 1};
        p256_public(base, one);
        p256_public(out, secret);
        p256_ecdh(out, secret, (str){base, 65});
    } else if (!strcmp(what, "hmac")) {
        hmac(SHA384, (str){secret, 32}, (str){data, sizeof data}, out);
    } else if (!strcmp(what, "leak")) {
        while (*(volatile u8 *)secret)
            secret[0]--;
    } else
        return 2;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "trace"))
        return ct_trace(argv[2], strtoull(argv[3], 0, 10));
    if (!RUNNING_ON_VALGRIND) {
        printf("run it under valgrind: make ct\n");
        return 2;
    }
    ct_hash(SHA256, "sha256, hmac, hkdf");
    ct_hash(SHA384, "sha384, hmac, hkdf");
    ct_aead(CHACHA20_POLY1305, "chacha20-poly1305", 1);
    ct_aead(CHACHA20_POLY1305, "chacha20-poly1305, bad tag", 0);
    ct_aead(AES_128_GCM, "aes-128-gcm", 1);
    ct_aead(AES_256_GCM, "aes-256-gcm", 1);
    ct_aead(AES_256_GCM, "aes-256-gcm, bad tag", 0);
    ct_x25519();
    ct_p256();
    ct_leaks();
    printf("%d wrong\n", ct_wrong);
    return ct_wrong > 0;
}

#else

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"strings_compare", test_strings_compare},
    {"strings_cut", test_strings_cut},
    {"strings_numbers", test_strings_numbers},
    {"strings_environment", test_strings_environment},
    {"time_formatting", test_time_formatting},
    {"arena_allocates", test_arena_allocates},
    {"arena_stays_clean", test_arena_stays_clean},
    {"arena_writer_gives_back", test_arena_writer_gives_back},
#if OS_GUARDED
    {"arena_gaps_trip", test_arena_gaps_trip},
#endif
    {"writer_limits", test_writer_limits},
    {"writer_numbers", test_writer_numbers},
    {"utf8_round_trip", test_utf8_round_trip},
    {"utf8_refused", test_utf8_refused},
    {"reader_limits", test_reader_limits},
    {"reader_plain", test_reader_plain},
    {"json_accepted", test_json_accepted},
    {"json_refused", test_json_refused},
    {"json_depth", test_json_depth},
    {"json_against_validator", test_json_against_validator},
    {"json_tokens", test_json_tokens},
    {"json_fields", test_json_fields},
    {"json_values", test_json_values},
    {"json_writer", test_json_writer},
    {"json_slices", test_json_slices},
    {"hash_published", test_hash_published},
    {"hash_million", test_hash_million},
    {"hash_split", test_hash_split},
    {"hash_leaves_nothing", test_hash_leaves_nothing},
    {"hmac_published", test_hmac_published},
    {"hmac_long_key", test_hmac_long_key},
    {"hkdf_published", test_hkdf_published},
    {"hkdf_overlay", test_hkdf_overlay},
    {"hkdf_expand_label_published", test_hkdf_expand_label_published},
    {"hkdf_wrong_sizes_differ", test_hkdf_wrong_sizes_differ},
    {"chacha20_block_published", test_chacha20_block_published},
    {"poly1305_published", test_poly1305_published},
    {"aead_published", test_aead_published},
    {"chacha20_poly1305_published", test_chacha20_poly1305_published},
    {"aead_lengths", test_aead_lengths},
    {"aead_long", test_aead_long},
    {"aead_flipped", test_aead_flipped},
    {"x25519_published", test_x25519_published},
    {"x25519_iterated", test_x25519_iterated},
    {"x25519_zero", test_x25519_zero},
    {"f25519_bounds", test_f25519_bounds},
    {"f25519_store", test_f25519_store},
    {"hash_openssl", test_hash_openssl},
    {"hkdf_openssl", test_hkdf_openssl},
    {"x25519_openssl", test_x25519_openssl},
    {"vector_symmetric", test_vector_symmetric},
    {"public_field", test_public_field},
    {"public_constants", test_public_constants},
    {"public_combine", test_public_combine},
    {"public_scale_edges", test_public_scale_edges},
    {"public_montgomery", test_public_montgomery},
    {"public_scalar_invert", test_public_scalar_invert},
    {"public_ecdh_vectors", test_public_ecdh_vectors},
    {"public_ecdsa_vectors", test_public_ecdsa_vectors},
    {"public_ecdsa_ranges", test_public_ecdsa_ranges},
    {"public_ecdsa_edges", test_public_ecdsa_edges},
    {"public_point_refused", test_public_point_refused},
    {"public_rsa_pkcs1_encoding", test_public_rsa_pkcs1_encoding},
    {"public_rsa_pss_encoding", test_public_rsa_pss_encoding},
    {"public_rsa_keys_refused", test_public_rsa_keys_refused},
    {"public_rsa_oracle", test_public_rsa_oracle},
    {"public_ec_oracle", test_public_ec_oracle},
    {"public_der_signature", test_public_der_signature},
    {"x509_der_forms", test_x509_der_forms},
    {"x509_time", test_x509_time},
    {"x509_host", test_x509_host},
    {"x509_constraints", test_x509_constraints},
    {"x509_certificate_forms", test_x509_certificate_forms},
    {"x509_algorithms", test_x509_algorithms},
    {"x509_signature_forms", test_x509_signature_forms},
    {"x509_base64", test_x509_base64},
    {"x509_bundle", test_x509_bundle},
    {"x509_openssl_chains", test_x509_openssl_chains},
    {"x509_openssl_random", test_x509_openssl_random},
    {"tls_refused_hello", test_tls_refused_hello},
    {"tls_refused_retry", test_tls_refused_retry},
    {"tls_refused_flight", test_tls_refused_flight},
    {"tls_refused_order", test_tls_refused_order},
    {"tls_refused_records", test_tls_refused_records},
    {"tls_refused_bits", test_tls_refused_bits},
    {"tls_accepted", test_tls_accepted},
    {"tls_resumption", test_tls_resumption},
    {"tls_resumption_chain", test_tls_resumption_chain},
    {"tls_resumption_root", test_tls_resumption_root},
    {"tls_resumption_ends", test_tls_resumption_ends},
    {"tls_largest_certificate", test_tls_largest_certificate},
    {"tls_resumption_refused", test_tls_resumption_refused},
    {"tls_rfc8448_binder", test_tls_rfc8448_binder},
    {"tls_largest_records", test_tls_largest_records},
    {"tls_certificate_rubbish", test_tls_certificate_rubbish},
    {"tls_splits", test_tls_splits},
    {"tls_truncation", test_tls_truncation},
    {"tls_client_hello", test_tls_client_hello},
    {"tls_second_hello", test_tls_second_hello},
    {"tls_cookie_limit", test_tls_cookie_limit},
    {"tls_write", test_tls_write},
    {"tls_full_output", test_tls_full_output},
    {"tls_record_count", test_tls_record_count},
    {"tls_certificate_errors", test_tls_certificate_errors},
    {"tls_rfc8448_simple", test_tls_rfc8448_simple},
    {"tls_rfc8448_refused", test_tls_rfc8448_refused},
    {"tls_rfc8448_retry", test_tls_rfc8448_retry},
    {"tls_fuzz_turn", test_tls_fuzz_turn},
    {"dns_address_text", test_dns_address_text},
    {"dns_address_random", test_dns_address_random},
    {"dns_names", test_dns_names},
    {"dns_query", test_dns_query},
    {"dns_hosts_file", test_dns_hosts_file},
    {"dns_resolv_conf", test_dns_resolv_conf},
    {"dns_add", test_dns_add},
    {"dns_parse_replies", test_dns_parse_replies},
    {"dns_parse_limits", test_dns_parse_limits},
    {"dns_parse_not_ours", test_dns_parse_not_ours},
    {"dns_parse_cut", test_dns_parse_cut},
    {"dns_parse_random", test_dns_parse_random},
    {"dns_vector_rows", test_dns_vector_rows},
    {"dns_resolve_literals", test_dns_resolve_literals},
    {"dns_resolve_hosts", test_dns_resolve_hosts},
    {"dns_resolve_silence", test_dns_resolve_silence},
    {"dns_resolve_next_server", test_dns_resolve_next_server},
    {"dns_resolve_answers", test_dns_resolve_answers},
    {"dns_resolve_tcp", test_dns_resolve_tcp},
    {"dns_resolve_tcp_one", test_dns_resolve_tcp_one},
    {"dns_resolve_tcp_largest", test_dns_resolve_tcp_largest},
    {"dns_parse_hostile", test_dns_parse_hostile},
    {"dns_cache", test_dns_cache},
    {"addresses_of_hosts", test_addresses_of_hosts},
    {"platform_sockets", test_platform_sockets},
    {"connection_life", test_connection_life},
    {"connection_errors", test_connection_errors},
    {"connection_memory", test_connection_memory},
    {"connection_silence", test_connection_silence},
    {"connection_unasked", test_connection_unasked},
    {"connection_flow", test_connection_flow},
    {"http_accepted", test_http_accepted},
    {"http_truncated", test_http_truncated},
    {"http_refused", test_http_refused},
    {"http_without_length", test_http_without_length},
    {"http_leftover", test_http_leftover},
    {"http_limits", test_http_limits},
    {"http_limits_behind_the_head", test_http_limits_behind_the_head},
    {"http_without_memory", test_http_without_memory},
    {"http_leaves_clean_memory", test_http_leaves_clean_memory},
    {"http_vectors", test_http_vectors},
    {"http_headers", test_http_headers},
    {"url_parse", test_url_parse},
    {"http_requests", test_http_requests},
    {"http_unsafe_values", test_http_unsafe_values},
    {"http_get_retries", test_http_get_retries},
    {"http_get_pauses", test_http_get_pauses},
    {"lambda_place", test_lambda_place},
    {"lambda_deadline", test_lambda_deadline},
    {"lambda_receive", test_lambda_receive},
    {"lambda_receive_refused", test_lambda_receive_refused},
    {"lambda_receive_faulty_event", test_lambda_receive_faulty_event},
    {"lambda_receive_large", test_lambda_receive_large},
    {"lambda_ask_once", test_lambda_ask_once},
    {"lambda_post", test_lambda_post},
    {"lambda_error_names", test_lambda_error_names},
    {"lambda_post_statuses", test_lambda_post_statuses},
    {"lambda_post_odd_answers", test_lambda_post_odd_answers},
    {"lambda_restore", test_lambda_restore},
    {"lambda_post_again", test_lambda_post_again},
    {"log_levels", test_log_levels},
    {"log_lines", test_log_lines},
    {"log_crash", test_log_crash},
    {"log_stages", test_log_stages},
    {"log_trace_root", test_log_trace_root},
    {"alexa_parse", test_alexa_parse},
    {"alexa_parse_tables", test_alexa_parse_tables},
    {"alexa_parse_slots", test_alexa_parse_slots},
    {"alexa_application_id", test_alexa_application_id},
    {"alexa_token", test_alexa_token},
    {"time_parsing", test_time_parsing},
    {"services_configured", test_services_configured},
    {"skill_configured", test_skill_configured},
    {"tfl_requests", test_tfl_requests},
    {"tfl_status_refused", test_tfl_status_refused},
    {"tfl_status_without_memory", test_tfl_status_without_memory},
    {"tfl_disruption_list", test_tfl_disruption_list},
    {"tfl_disruption_many", test_tfl_disruption_many},
    {"preferences_lines", test_preferences_lines},
    {"line_names", test_line_names},
    {"line_resolution", test_line_resolution},
    {"line_not_known", test_line_not_known},
    {"speech_of_statuses", test_speech_of_statuses},
    {"speech_of_severities", test_speech_of_severities},
    {"speech_verbalised", test_speech_verbalised},
    {"speech_overground", test_speech_overground},
    {"speech_overground_apart", test_speech_overground_apart},
    {"text_cut", test_text_cut},
    {"speech_limits", test_speech_limits},
    {"speech_at_the_bound", test_speech_at_the_bound},
    {"speech_limits_of_many", test_speech_limits_of_many},
    {"intents_rules", test_intents_rules},
    {"intents_repeat", test_intents_repeat},
    {"disruption_speech", test_disruption_speech},
    {"commute", test_commute},
    {"commute_of_many", test_commute_of_many},
    {"commute_of_many_refused", test_commute_of_many_refused},
    {"services_fail", test_services_fail},
    {"commute_refused", test_commute_refused},
    {"loop_conversation", test_loop_conversation},
    {"loop_hostile_events", test_loop_hostile_events},
    {"loop_survives_exhaustion", test_loop_survives_exhaustion},
    {"loop_any_room", test_loop_any_room},
    {"loop_wipes", test_loop_wipes},
    {"loop_reconnects", test_loop_reconnects},
    {"loop_without_lambda", test_loop_without_lambda},
    {"workers_count", test_workers_count},
    {"workers_end", test_workers_end},
    {"restored_copies_differ", test_restored_copies_differ},
    {"fuzz_entries", test_fuzz_entries},
    {"e2e_json_reader", test_e2e_json_reader},
    {"e2e_conversation", test_e2e_conversation},
    {"e2e_session", test_e2e_session},
    {"e2e_random_reason", test_e2e_random_reason},
    {"e2e_upstream_requests", test_e2e_upstream_requests},
    {"e2e_injection", test_e2e_injection},
    {"e2e_favourites", test_e2e_favourites},
    {"e2e_upstream_split", test_e2e_upstream_split},
    {"e2e_event_split", test_e2e_event_split},
    {"e2e_optional_headers", test_e2e_optional_headers},
    {"e2e_no_request_id", test_e2e_no_request_id},
    {"e2e_log_settings", test_e2e_log_settings},
    {"emf_judge", test_emf_judge},
    {"e2e_log_thousand", test_e2e_log_thousand},
    {"e2e_log_hostile", test_e2e_log_hostile},
    {"e2e_log_times", test_e2e_log_times},
    {"e2e_trace", test_e2e_trace},
    {"e2e_crash_signals", test_e2e_crash_signals},
    {"e2e_crash_inside", test_e2e_crash_inside},
    {"e2e_crash_restore", test_e2e_crash_restore},
    {"e2e_crash_faults", test_e2e_crash_faults},
    {"e2e_post_answers", test_e2e_post_answers},
    {"e2e_next_answers", test_e2e_next_answers},
    {"e2e_reconnect", test_e2e_reconnect},
    {"e2e_resend", test_e2e_resend},
    {"e2e_api_forms", test_e2e_api_forms},
    {"e2e_large_events", test_e2e_large_events},
    {"e2e_hostile_events", test_e2e_hostile_events},
    {"e2e_skill_id", test_e2e_skill_id},
    {"e2e_tfl_fails", test_e2e_tfl_fails},
    {"e2e_disruption_fails", test_e2e_disruption_fails},
    {"e2e_preferences_fail", test_e2e_preferences_fail},
    {"e2e_upstream_odd", test_e2e_upstream_odd},
    {"e2e_retries", test_e2e_retries},
    {"e2e_kept_dies", test_e2e_kept_dies},
    {"e2e_silence", test_e2e_silence},
    {"e2e_not_loopback", test_e2e_not_loopback},
    {"e2e_serve_report", test_e2e_serve_report},
    {"e2e_serve_init_report", test_e2e_serve_init_report},
    {"e2e_serve_usage", test_e2e_serve_usage},
    {"e2e_serve_environment", test_e2e_serve_environment},
    {"e2e_serve_asks", test_e2e_serve_asks},
    {"e2e_serve_hostile", test_e2e_serve_hostile},
    {"e2e_serve_endpoint", test_e2e_serve_endpoint},
    {"e2e_serve_queue", test_e2e_serve_queue},
    {"peers", test_peers},
    {"dns_real_server", test_dns_real_server},
    {"e2e_https", test_e2e_https},
    {"voice_model", test_voice_model},
    {"voice_manifest", test_voice_manifest},
    {"voice_say", test_voice_say},
    {"e2e_voice_model", test_e2e_voice_model},
    {"e2e_workers", test_e2e_workers},
    {"e2e_workers_fail", test_e2e_workers_fail},
    {"e2e_emulator", test_e2e_emulator},
    {"e2e_early", test_e2e_early},
    {"e2e_restore", test_e2e_restore},
    {"e2e_empty_root", test_e2e_empty_root},
    {"e2e_ten_thousand", test_e2e_ten_thousand},
    {"e2e_no_secret_in_any_log", test_e2e_no_secret_in_any_log},
};

static void usage(FILE *to)
{
    fprintf(to, "usage: skill_test                 every test\n"
                "       skill_test NAME            the tests whose names contain NAME\n"
                "       skill_test run             a conversation; SAY=TEXT asks one thing\n"
                "       skill_test serve [PORT] [--timeout SECONDS]\n"
                "                                  a local Lambda; TFL=live asks the real TfL\n"
                "       skill_test serve [--event FILE]... [--say TEXT]...\n"
                "                                  hands these over, prints the answers, ends\n"
                "       skill_test model           the voice model for Alexa, as JSON\n"
                "       skill_test model manifest [ARN]  the skill manifest\n"
                "       skill_test bench           what `make bench` measures\n"
                "       skill_test get [-v] URL... fetches with the skill's own client\n"
                "       skill_test vectors FILE... checks outside vectors\n");
}

/* Runs the tests whose names hold `wanted`; the closing line counts tests. */
static int command_test(const char *wanted)
{
    int good = 0, bad = 0, left_out = 0;
    for (iz i = 0; i < countof(tests); i++) {
        if (!strstr(tests[i].name, wanted))
            continue;
        passed = failed = skipped = 0;
        tests[i].run();
        if (!passed && !failed && !skipped)
            fprintf(stderr, "%s: checked nothing\n", tests[i].name);
        if (failed || (!passed && !skipped))
            fprintf(stderr, "test %s failed\n", tests[i].name), bad++;
        else if (skipped)
            printf("skipped: %s\n", tests[i].name), left_out++;
        else
            good++;
    }
    if (!good && !bad && !left_out) {
        fprintf(stderr, "%s is no command, and no test's name contains it\n", wanted);
        usage(stderr);
        bad++;
    }
    printf("%d passed, %d failed, %d skipped\n", good, bad, left_out);
    return bad > 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "run") && argc == 2)
        return command_run();
    if (!strcmp(command, "serve"))
        return command_serve(argc - 2, argv + 2);
    if (!strcmp(command, "model"))
        return command_model(argc - 2, argv + 2);
    if (!strcmp(command, "bench") && argc == 2)
        return command_bench();
    if (!strcmp(command, "get"))
        return command_get(argc - 2, argv + 2);
    if (!strcmp(command, "vectors") && argc > 2)
        return command_vectors(argc - 2, argv + 2);
    if (argc <= 2 && command[0] != '-')
        return command_test(command);
    b32 asked = argc == 2 && (!strcmp(command, "--help") || !strcmp(command, "-h"));
    usage(asked ? stdout : stderr);
    return asked ? 0 : 2;
}

#endif

#endif
