/* skill_test.c: the development program of skill.c, which it includes whole
 *
 *   skill_test               every test; closing line "N passed, N failed, N skipped"
 *   skill_test NAME          the tests whose names contain it
 *   skill_test run           a conversation with the real bootstrap; SAY="victoria" asks one thing
 *   skill_test serve [PORT]  a local Lambda with AWS's invoke endpoint
 *   skill_test vectors FILE  vectors from outside, one a line, as the README's page on them says
 *
 * BOOTSTRAP names another bootstrap than the one beside this program, RUNNER a program to start it
 * with (qemu-aarch64-static). All traffic stays on loopback.
 *
 * Parts, in order: the platform for tests, unit tests by section, the world around the skill (a
 * local Lambda, stand-ins for TfL and the preferences API), end-to-end tests, commands.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
enum { SCRIPT_PIECES = 256, SCRIPT_STREAMS = 64, SCRIPT_ERRORS = 16, SCRIPT_FD = 1000 };

static struct script {
    b32 on;
    b32 early;   /* what comes next has come before it was asked for */
    i64 now;     /* the monotonic clock, ns */
    i64 unix_ms; /* UTC when `now` was zero */
    iz most;     /* bytes that one os_recv may give; 0: as many as fit */

    iz pieces, claimed; /* all of them, and those that connections have been given */
    script_piece piece[SCRIPT_PIECES];
    iz streams;
    script_stream stream[SCRIPT_STREAMS];

    err connect[SCRIPT_ERRORS], send[SCRIPT_ERRORS]; /* results in turn; beyond them, success */
    iz connects, sends, closes;                      /* calls so far */
    address to;                                      /* of the last connect */

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

static i64 os_clock(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static i64 os_monotonic(void)
{
    return script.on ? script.now : os_clock(CLOCK_MONOTONIC);
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

static err os_connect(i32 *fd, const address *to, i64 deadline)
{
    if (script.on)
        return script_connect(fd, to, deadline);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
    memcpy(&v4.sin_addr, to->ip, 4);
    memcpy(&v6.sin6_addr, to->ip, 16);
    int s = socket(to->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int failure = 0;
    socklen_t size = sizeof failure;
    if (connect(s, to->v6 ? (void *)&v6 : (void *)&v4, to->v6 ? sizeof v6 : sizeof v4))
        failure = errno;
    err error = failure == EINPROGRESS ? os_wait(s, POLLOUT, deadline) : E_None;
    if (failure == EINPROGRESS)
        getsockopt(s, SOL_SOCKET, SO_ERROR, &failure, &size);
    if (!error && failure)
        error = os_error(failure);
    if (error)
        close(s);
    else
        *fd = s;
    return error;
}

static err os_send(i32 fd, str data, i64 deadline)
{
    err error = script.on ? script_result(script.send, &script.sends, deadline) : E_None;
    if (script.on && !error)
        put(&script.sent, data), script.faults += script.sent.error != E_None;
    while (!script.on && data.len && !error) {
        error = os_wait(fd, POLLOUT, deadline);
        ssize_t n = error ? 0 : send(fd, data.ptr, (size_t)data.len, MSG_NOSIGNAL);
        error = n < 0 ? os_error(errno) : error;
        data = str_from(data, n < 0 ? 0 : n);
    }
    return error;
}

static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error)
{
    if (script.on && !deadline && !script.early) { /* a look whether anything is there: not yet */
        *error = E_TimedOut;
        return -1;
    }
    if (script.on)
        return script_recv(&script.stream[fd - SCRIPT_FD], buf, cap, deadline, error);
    for (;;) { /* as section 17 does: what is there first, then the deadline */
        ssize_t n = recv(fd, buf, (size_t)cap, deadline == FOREVER ? 0 : MSG_DONTWAIT);
        if (n >= 0)
            return n;
        *error = errno == EAGAIN ? os_wait(fd, POLLIN, deadline) : os_error(errno);
        if (*error)
            return -1;
    }
}

static void os_close(i32 fd)
{
    if (!script.on) {
        close(fd);
    } else {
        script.closes++;
        script.faults += !script.stream[fd - SCRIPT_FD].open;
        script.stream[fd - SCRIPT_FD].open = 0;
    }
}

static void os_log(str text)
{
    script.logs++;
    if (script.on)
        put(&script.log, text), script.faults += script.log.error != E_None;
    else if (write(2, text.ptr, (size_t)text.len) < 0)
        abort();
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
    CHECK(unit_is(env_get(env, S("A")), "2=3") && unit_is(env_get(env, S("AB")), "1"));
    CHECK(env_get(env, S("EMPTY")).ptr && !env_get(env, S("EMPTY")).len);
    CHECK(!env_get(env, S("NOEQUALS")).ptr && !env_get(env, S("B")).ptr);
    CHECK(!env_get(env, S("ab")).ptr && !env_get(env + 5, S("A")).ptr);
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
    json_start(&j, text);
    return json_finish(&j);
}

/* The same by stepping over the whole value at once, as members that nobody wants are. */
static err unit_json_skip(str text)
{
    json j;
    json_start(&j, text);
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
    json_start(&j, S("{\"a\":[1,-2e3],\"b\":{},\"c\\n\":\"x\",\"d\":[true,false,null]}"));
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
    json_walk walk;
    json_start(&j, unit_str(text));
    if (json_walk_start(&walk, &j, "one two in.one in.er.two"))
        for (i32 i; (i = json_walk_next(&walk, &j)) >= 0;) {
            put_byte(&w, (u8)('1' + i));
            str value = json_text(&j, a);
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
        json_start(&j, unit_str(rows[i].text));
        CHECK_ROW(json_small(&j, 1000) == rows[i].small && !json_finish(&j), rows[i].text);
        json_start(&j, unit_str(rows[i].text));
        CHECK_ROW(json_is_true(&j) == rows[i].is_true && !json_finish(&j), rows[i].text);
    }
    arena *a = unit_small_arena(256);
    static char text[1000] = "\"";
    for (int i = 0; i < 300; i++)
        memcpy(text + 1 + 2 * i, "\\n", 2);
    text[601] = '"';
    json j;
    json_start(&j, unit_str(text));
    json_text(&j, a);
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
    json_walk walk;
    arena *a = unit_arena();
    json_start(&j, text);
    CHECK(json_walk_start(&walk, &j, "one") && json_walk_next(&walk, &j) == 0);
    str value = json_text(&j, a);
    CHECK(value.ptr == text.ptr + 8 && value.len == 5 && a->at == a->start);
    CHECK(json_walk_next(&walk, &j) == -1 && !json_finish(&j));
    json_start(&j, S("[[1,2],{\"a\":3},4]"));
    iz count = 0;
    for (b32 array = json_enter(&j, JSON_ARRAY); array && json_element(&j); count++)
        json_skip(&j);
    CHECK(count == 3 && !json_finish(&j));
    json_start(&j, S("[]"));
    CHECK(json_enter(&j, JSON_ARRAY) && !json_element(&j) && !json_finish(&j));
    json_start(&j, S("[1"));
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
    arena *a = unit_arena();
    json j;
    json_start(&j, text);
    if (json_enter(&j, JSON_ARRAY))
        while (json_element(&j))
            if (!strict_text(json_text(&j, a)) && !j.in.error)
                abort();
    json_finish(&j);
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
        b32 good = !address_parse_v4(unit_str(rows[i].host), &to) || rows[i].good;
        err error = address_of_host(unit_str(rows[i].host), 8080, &to);
        CHECK_ROW(good, rows[i].host);
        if (rows[i].good) {
            u8 expected[16] = {[15] = 1};
            memcpy(expected, rows[i].ip, rows[i].v6 ? 0 : 4);
            CHECK_ROW(!error && to.port == 8080 && to.v6 == rows[i].v6, rows[i].host);
            CHECK_ROW(!memcmp(to.ip, expected, rows[i].v6 ? 16 : 4), rows[i].host);
            CHECK_ROW(address_is_loopback(&to) == rows[i].loopback, rows[i].host);
        } else {
            CHECK_ROW(error, rows[i].host);
        }
    }
    address v6 = {.v6 = 1, .ip = {127, 0, 0, 1}};
    CHECK(!address_is_loopback(&v6));
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
    CHECK(!os_connect(&fd, &to, start + SECOND) && fd >= 0);
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
    CHECK(os_connect(&fd, &to, os_monotonic() + SECOND) == E_ConnectRefused);
    start = os_monotonic();
    os_sleep(start + 2 * MS);
    CHECK(os_monotonic() >= start + 2 * MS && os_unix_ms() > 1577836800000);
}

static void unit_open(connection *c, i64 deadline)
{
    memset(c, 0, sizeof *c);
    connection_init(c, (origin){S("127.0.0.1"), 8080, 0});
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
        connection_init(&c, (origin){S("127.0.0.1"), 1, 0});
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
    connection_init(&c, (origin){S("example.com"), 80, 0});
    CHECK(connection_open(&c, script.now + SECOND) == E_HostUnknown && script.connects == 1);
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
            if (kept)
                CHECK(!connection_open(&c, start + 5 * SECOND) && c.kept);
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
    CHECK(!connection_open(&c, FOREVER) && c.kept);
    CHECK(unit_is(connection_take(&c, 9), "x") && !script.faults);
    connection_close(&c);
    script_start();
    script_add(S("x"), THEN_END);
    script.piece[0].delay = 1999 * MS;
    unit_open(&c, script.now + 9 * SECOND);
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
    CHECK(unit_is(http_header(&r, S("a")), "1") && unit_is(http_header(&r, S("ab")), "2"));
    CHECK(unit_is(http_header(&r, S("lambda-runtime-trace-id")), "x:y"));
    CHECK(http_header(&r, S("empty")).ptr && !http_header(&r, S("empty")).len);
    CHECK(!http_header(&r, S("b")).ptr && !http_header(&r, S("lambda-runtime")).ptr);
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
        {"http/", 1, 0, 0, 0, "", ""},
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
            address to;
            error = address_of_host(u.origin.host, 1, &to);
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
        http_put_start(&w, S("GET"), &u);
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
        http_put(&w, (str){value, 3}, 0);
        CHECK((w.error == E_None) == visible && (visible || w.error == E_HttpRequestUnsafe));
        w = writer_of(buf, countof(buf));
        http_put_header(&w, S("X"), (str){value, 3});
        CHECK((w.error == E_None) == (visible || c == ' '));
        char expected[16];
        unit_print(expected, sizeof expected, "a%%%02Xb", (unsigned)c);
        w = writer_of(buf, countof(buf));
        http_put_encoded(&w, (str){value, 3});
        b32 unreserved = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                         (c >= 'a' && c <= 'z') || (c && strchr("-._~", c));
        CHECK(unreserved ? str_eq(written(&w), (str){value, 3}) : unit_is(written(&w), expected));
    }
}

/* ---- http_get: what is tried again, how often and when ---- */

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
        connection_init(&c, (origin){S("127.0.0.1"), 80, 0});
        if (row->kept)
            CHECK(!http_get(&c, S("GET 0"), script.now + SECOND, a, &r, &tries) && c.fd >= 0);
        i64 start = script.now;
        tries = 0;
        script.sent.len = 0;
        err error = http_get(&c, S("GET 1"), start + row->budget * SECOND, a, &r, &tries);
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
    connection_init(&c, (origin){S("127.0.0.1"), 80, 0});
    i64 start = script.now;
    CHECK(http_get(&c, S("GET"), start + SECOND, unit_arena(), &r, &tries) == E_ConnectRefused);
    CHECK(tries == 3 && script.now - start == RETRY_PAUSE + 3 * RETRY_PAUSE);
    tries = 0;
    start = script.now;
    for (int i = 0; i < 6; i++)
        script.connect[i] = E_ConnectRefused;
    CHECK(http_get(&c, S("GET"), start + 2 * RETRY_PAUSE, unit_arena(), &r, &tries));
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
    CHECK_ROW(!lambda_init(&u.l, env), place);
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
        CHECK_ROW(!lambda_ask(&u->l, "invocation/next"), rows[i].place);
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
        CHECK_ROW(lambda_init(&l, env) == (i < 2 ? E_RuntimeApiUrl : E_RuntimeApiUrl), bad[i]);
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
    CHECK(!lambda_ask(&(*u)->l, "invocation/next"));
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
    CHECK(!lambda_ask(&u->l, "invocation/next") && !lambda_receive(&u->l, unit_arena(), &i));
    CHECK(i.error == E_HttpChunk && i.request_id.len && u->l.connection.fd == -1);
    script_start();
    script_add(S(OK ID "Content-Length: 6292481\r\n\r\n"), THEN_END); /* 6 MiB + 1025 */
    CHECK(!lambda_ask(&u->l, "invocation/next") && !lambda_receive(&u->l, unit_arena(), &i));
    CHECK(i.error == E_HttpBodyTooLarge && i.request_id.len);
    script_start();
    script_add(S(""), THEN_END);
    CHECK(!lambda_ask(&u->l, "invocation/next"));
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
        CHECK(!lambda_ask(&u->l, "invocation/next") && !lambda_receive(&u->l, unit_arena(), &i) &&
              !i.error);
        CHECK(i.event.len == SIZE && i.event.ptr[SIZE - 1] == '7' && !script.faults);
    }
}

static void test_lambda_ask_once(void)
{
    unit_lambda *u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    CHECK(!lambda_ask(&u->l, "invocation/next") && script.connects == 1);
    CHECK(str_starts(written(&script.sent), S("GET /2018-06-01/runtime/invocation/next HTTP/1.1")));
    u = unit_lambda_of("127.0.0.1:9001");
    script_start();
    script.connect[0] = E_ConnectRefused;
    CHECK(lambda_ask(&u->l, "invocation/next") == E_ConnectRefused && script.connects == 1);
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

/* restore/next comes first and over a connection of its own; anything but 200 ends the program. */
static void test_lambda_restore(void)
{
    for (int status = 200; status <= 500; status += 300) {
        static const char *env[] = {"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
                                    "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", 0};
        static u8 memory[PROCESS_BYTES] __attribute__((aligned(16)));
        char text[80];
        memset(memory, 0, sizeof memory);
        arena process = arena_of(memory, PROCESS_BYTES);
        script_start();
        unit_print(text, sizeof text, "HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", status);
        script_add(unit_str(text), THEN_END);
        script_add(S("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n"), THEN_END);
        CHECK(skill_run(&process, unit_arena(), env) == 1);
        str sent = written(&script.sent);
        CHECK(str_starts(sent, S("GET /2018-06-01/runtime/restore/next HTTP/1.1\r\n")));
        CHECK(unit_count(sent, "/invocation/next ") == (status == 200));
        CHECK(script.connects == (status == 200 ? 2 : 1));
        CHECK(unit_has(written(&script.log), "RuntimeApiStatus"));
        os_unguard(memory, PROCESS_BYTES);
    }
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
            log_line(&log, (log_level)level, S("x"), S(""), E_None);
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
    log_line(&log, LOG_ERROR, S("what"), S("which"), E_HttpTruncated);
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
    log_line(&log, LOG_WARN, S("what"), (str){name, 300}, E_None);
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
        log_line(&log, LOG_WARN, S("what"), (str){name, 300}, E_AccessTokenInvalid);
        entry = written(&script.log);
        CHECK(unit_count(entry, "\n") == 1 && entry.len <= LOG_LINE_MAX &&
              str_ends(entry, S("\n")));
        for (iz i = 0; i < entry.len - 1; i++)
            CHECK(entry.ptr[i] == '\t' || (entry.ptr[i] >= ' ' && entry.ptr[i] < 0x7f));
    }
    log.as_json = 0;
    script.log.len = 0;
    log.request_id = S("req-1");
    log_line(&log, LOG_FATAL, S("what"), S(""), E_TimedOut);
    CHECK(str_starts(written(&script.log), S("2026-11-23T08:00:00.000Z\treq-1\tFATAL\twhat")));
    CHECK(unit_has(written(&script.log), "TimedOut") &&
          unit_count(written(&script.log), "\n") == 1);
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
    CHECK(unit_is(r->member[ALEXA_SLOT], "the vic") && unit_is(r->slot_id, "victoria"));
    CHECK(unit_is(r->slot_name, "Victoria") &&
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
        CHECK_ROW(unit_is(r->slot_id, rows[i].id) && unit_is(r->slot_name, rows[i].name), event);
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
        service_init(&s, unit_str(rows[i].base));
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
        skill_init(&s, env);
        CHECK(s.verify == rows[i].expected);
        CHECK(s.preferences.error == E_PreferencesNotSet && !s.tfl.error);
        CHECK(unit_is(s.tfl.base.origin.host, "api.tfl.gov.uk") && s.tfl.base.origin.https);
        CHECK(s.tfl.base.origin.port == 443 && !s.app_id.len && !s.app_key.len);
    }
    const char *env[] = {"Skill__SkillApiUrl=http://10.0.0.1/", "Skill__TflApiUrl=nonsense", 0};
    memset(&s, 0, sizeof s);
    skill_init(&s, env);
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
    skill_init(&s, env);
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
        {301, "MARKER", E_HttpStatus},
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
            err error = tfl_parse_lines((str){(u8 *)body, n}, &t, &lines);
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
                sentence |= s.ptr[k] == ' ' && is_word(s, k - 2) && is_word(s, k - 3) &&
                            (c == '.' || c == '!' || c == '?');
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
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"USER_INITIATED\"", "", "", '-', '-', 1, ""},
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"EXCEEDED_MAX_REPROMPTS\"", "", "", '-', '-', 1,
     ""},
    {"\"type\":\"SessionEndedRequest\",\"reason\":\"ERROR\",\"error\":{\"type\":"
     "\"INVALID_RESPONSE\","
     "\"message\":\"LOGMARK\"}",
     "", "", '-', '-', 1, ""},
    {"\"type\":\"SessionEndedRequest\"", "", "", '-', '-', 1, ""},
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
        CHECK_ROW(script.connects == (unit_intent_rows[i].body[0] != 0),
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
                script_add(S(OK "Content-Length: 300000\r\n\r\n["), THEN_MORE);
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

/* A short turn of each fuzzer on texts that are nearly right. */
static void test_fuzz_entries(void)
{
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
    static const struct {
        const char *seed;
        iz len;
        int which;
    } rows[] = {{BYTES(tfl), 0},
                {BYTES(tfl), 1},
                {BYTES(unit_event), 1},
                {BYTES(unit_event), 2},
                {BYTES(http), 3}};
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
            if (rows[i].which == 0)
                fuzz_json(data, n);
            else if (rows[i].which == 1)
                fuzz_tfl(data, n);
            else if (rows[i].which == 2)
                fuzz_event(data, n);
            else
                fuzz_http(data, n);
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
    b32 log_shown;           /* copy it to stdout as it comes (serve) */
    int exit_status;         /* as waitpid gives it, once pid is 0 again */
    i64 started, first_next; /* ns; first_next 0 until the first GET .../next */
    textbuf init_error;

    world_event *current;
    int invocations;

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

static void api_answer(world *w, world_conn *c, world_request *q)
{
    iz n = (iz)strlen(w->api_prefix);
    const char *path = q->path.ptr, *base = "/2018-06-01/runtime/";
    b32 get = !strcmp(q->method, "GET");
    b32 ours = !strncmp(path, w->api_prefix, (size_t)n) && !strncmp(path + n, base, strlen(base));
    path += ours ? n + (iz)strlen(base) : 0;
    if (ours && get && !strcmp(path, "invocation/next")) {
        c->next = 1;
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
            fwrite(chunk, 1, (size_t)n, stdout), fflush(stdout);
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
    iz column = 0;
    printf("%s%-8s%s%s", tty ? "\033[2m" : "", label, tty ? "\033[0m" : "", loud ? "\033[1m" : "");
    while (*s) {
        iz bytes = (iz)strcspn(s, " \n"), width = 0;
        for (iz i = 0; i < bytes; i++)
            width += ((u8)s[i] & 0xc0) != 0x80;
        if (column && column + 1 + width > 84)
            column = 0, printf("\n        ");
        printf("%s%.*s", column ? " " : "", (int)bytes, s);
        column += width + (column > 0);
        s += bytes;
        if (*s == '\n')
            column = 0, printf("\n        ");
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

/* One turn. Attributes of a session that was left open go on to the next turn. */
static b32 run_play(world *w, const run_turn *turn, textbuf *session)
{
    textbuf sent = {0}, a = {0};
    alexa_event e = turn->event;
    if (session->len)
        e.attributes = session->ptr;
    event_make(&sent, &e);
    world_event v = {.event = text_str(&sent)};
    world_invoke(w, &v, 9000);
    b32 good = run_print(turn, &v);
    b32 open = peek_json(text_str(&v.body), "response.shouldEndSession", &a) == 'f';
    text_clear(session);
    if (open && peek_json(text_str(&v.body), "sessionAttributes", &a) != '{')
        text_puts(session, "{}");
    else if (open)
        text_add(session, a.ptr, a.len);
    world_done(&v);
    text_free(&sent), text_free(&a);
    return good;
}

/* What SAY asks for, as Alexa would have understood it. */
static run_turn run_say(const char *say)
{
    static const struct {
        const char *word, *intent;
    } rows[] = {
        {"commute", "CommuteIntent"},      {"disruption", "DisruptionIntent"},
        {"help", "AMAZON.HelpIntent"},     {"stop", "AMAZON.StopIntent"},
        {"cancel", "AMAZON.CancelIntent"}, {"repeat", "AMAZON.RepeatIntent"},
    };
    run_turn turn = {say, {.type = "IntentRequest", .intent = "StatusIntent", .spoken = say}, 0};
    for (iz i = 0; i < countof(rows); i++)
        if (strcasestr(say, rows[i].word))
            turn.event.intent = rows[i].intent;
    if (!*say || strcasestr(say, "open") || strcasestr(say, "launch"))
        turn.event.type = "LaunchRequest";
    turn.event.token = strcasestr(turn.event.intent, "commute") ? world_token : NULL;
    turn.quiet = strcasestr(say, "stop") || strcasestr(say, "cancel");
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

/* ---- serve: the local Lambda that stays up ---- */

static volatile sig_atomic_t serve_stop;

static void serve_signal(int number)
{
    (void)number;
    serve_stop = 1;
}

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

/* What the caller of an invocation that did not go well is told. AWS's emulator answers every
 * function error with 200 and the posted body, a time-out with 200 and the bare sentence "Task
 * timed out after 8.00 seconds", and says nothing at all of a process that died; it never sends
 * X-Amz-Function-Error. Lambda itself gives all three a JSON body and that header, which the AWS
 * command line shows as FunctionError. Here: Lambda's bodies and header, with the emulator's
 * status. */
static void serve_failure(world *w, world_event *v, int seconds, textbuf *body)
{
    text_fill(body, "{'errorType':@,'errorMessage':'RequestId: # Error: ",
              v->outcome == 't' ? "Sandbox.Timedout" : "Runtime.ExitError", v->id);
    if (v->outcome == 't')
        text_format(body, "Task timed out after %d.00 seconds", seconds);
    else if (WIFSIGNALED(w->exit_status))
        text_format(body, "Runtime exited with error: signal: %s",
                    strsignal(WTERMSIG(w->exit_status)));
    else if (WEXITSTATUS(w->exit_status))
        text_format(body, "Runtime exited with error: exit status %d", WEXITSTATUS(w->exit_status));
    else
        text_puts(body, "Runtime exited without providing a reason");
    text_puts(body, "\"}");
}

/* Runs one invoke to its end. A process that is gone is started anew first, one that does not
 * answer in time is killed: both only when there is something to do, so a bootstrap that cannot
 * start does not spin. */
static void serve_one(world *w, int serial, str event, int seconds)
{
    textbuf body = {0}, headers = {0};
    world_event v = {.event = event, .deadline_ms = seconds * 1000};
    i64 end = now_ns() + seconds * 1000000000LL;
    if (!w->pid)
        world_start(w);
    world_begin(w, &v);
    while (!v.outcome && w->pid && now_ns() < end && !serve_stop)
        worlds_pump(&w, 1, 50);
    w->current = NULL;
    v.outcome = v.outcome ? v.outcome : w->pid ? 't' : 'x';
    if (v.outcome == 't' || v.outcome == 'x')
        world_kill(w), serve_failure(w, &v, seconds, &body);
    else
        text_add(&body, v.body.ptr, v.body.len);
    text_format(&headers, "X-Amzn-Requestid: %s\r\nX-Amz-Executed-Version: $LATEST\r\n%s", v.id,
                v.outcome == 'r' ? "" : "X-Amz-Function-Error: Unhandled\r\n");
    world_reply a = {.status = 200, .headers = headers.ptr, .framing = W_SIZED};
    a.body = text_str(&body);
    for (int i = 0; i < W_CONNS; i++)
        if (w->conn[i].fd >= 0 && w->conn[i].serial == serial)
            conn_answer(&w->conn[i], &a), conn_flush(w, &w->conn[i]);
    world_done(&v);
    text_free(&body), text_free(&headers);
}

/* The first in the queue, or an answer at once to what is no invoke. */
static void serve_request(world *w, world_conn *c, world_request *q, int seconds)
{
    const char *path = q->path.ptr, *base = "/2015-03-31/functions/", *end = "/invocations";
    iz n = (iz)strlen(path), e = (iz)strlen(end);
    textbuf event = {0};
    q->listener = -1; /* not to be found again when its connection brings another */
    if (strncmp(path, base, strlen(base)) || n < e || strcmp(path + n - e, end)) {
        conn_answer_json(c, 404, "404 page not found\n");
    } else if (strcmp(q->method, "POST")) {
        conn_answer_json(c, 405, "{\"Message\":\"Method Not Allowed\"}");
    } else {
        text_add(&event, q->body.ptr, q->body.len);
        serve_one(w, c->serial, text_str(&event), seconds);
        text_free(&event);
    }
}

static void serve_open(world *w, int port)
{
    const char *tfl = getenv("Skill__TflApiUrl");
    world_open(w);
    for (char **pair = environ; *pair; pair++)
        world_env(w, *pair);
    world_urls(w);
    if (tfl) {
        for (char **pair = environ; *pair; pair++)
            if (!strncmp(*pair, "Skill__", 7))
                world_env(w, *pair);
        if (!getenv("Skill__SkillApiUrl"))
            world_env(w, "Skill__SkillApiUrl");
    }
    if (!getenv("Skill__SkillId"))
        world_env(w, "Skill__SkillId"); /* an event typed by hand need not have one */
    w->listener[W_INVOKE] = world_listen(port ? port : 9000);
    if (w->listener[W_INVOKE] < 0 && !port)
        w->listener[W_INVOKE] = world_listen(9001);
    w->port[W_INVOKE] = world_port(w->listener[W_INVOKE]);
    w->log_shown = 1;
}

/* `skill_test serve [PORT]`: a local Lambda until SIGINT or SIGTERM. One invocation at a time;
 * the others wait in their order. AWS_LAMBDA_FUNCTION_TIMEOUT is in seconds. */
static int command_serve(int port)
{
    const char *limit = getenv("AWS_LAMBDA_FUNCTION_TIMEOUT");
    int seconds = limit && atoi(limit) > 0 ? atoi(limit) : 8;
    struct sigaction act = {.sa_handler = serve_signal};
    world w;
    serve_open(&w, port);
    if (w.listener[W_INVOKE] < 0) {
        fprintf(stderr, "serve: the port is taken\n");
        world_close(&w);
        return 1;
    }
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    world_start(&w);
    printf("curl -d '{\"version\":\"1.0\",\"request\":{\"type\":\"LaunchRequest\"}}' "
           "http://127.0.0.1:%d/2015-03-31/functions/function/invocations\n",
           w.port[W_INVOKE]);
    fflush(stdout);
    while (!serve_stop) {
        world_request *q;
        world_conn *c = serve_next(&w, &q);
        if (c)
            serve_request(&w, c, q, seconds);
        else
            worlds_pump(&(world *){&w}, 1, 1000);
        text_clear(&w.log);
    }
    world_close(&w);
    return 0;
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
    textbuf type = {0}, big = {0};
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
        text_puts(&big, "[");
    CHECK(e2e_refused(&w, text_str(&big), &type) && e2e_alive(&w));
    text_clear(&big);
    for (int i = 0; i < 40000; i++)
        text_puts(&big, "{\"request\":");
    CHECK(e2e_refused(&w, text_str(&big), &type) && e2e_alive(&w));
    text_clear(&big);
    text_puts(&big, "\"");
    for (int i = 0; i < 5 << 10; i++)
        for (int k = 0; k < 16; k++)
            text_puts(&big, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\\");
    big.ptr[big.len - 1] = '"';
    CHECK(e2e_refused(&w, text_str(&big), &type) && e2e_alive(&w));
    e2e_close(&w);
    text_free(&type), text_free(&big);
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
    textbuf heard = {0}, big = {0}, out = {0};
    world_reply huge = {.status = 200, .framing = W_CHUNKED, .chunk = 65536};
    if (!e2e_ready())
        return;
    text_puts(&big, "[");
    while (big.len < 8 << 20)
        text_puts(&big, "{\"id\":\"victoria\",\"name\":\"Victoria\",\"lineStatuses\":[]},");
    text_puts(&big, "{}]");
    huge.body = text_str(&big);
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
    text_free(&heard), text_free(&big), text_free(&out);
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

/* One line: 1 passed, 0 failed, -1 not readable. */
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
    return -1;
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

#ifdef FUZZ

/* For libFuzzer (make fuzz): the first byte chooses what is fed. */
int LLVMFuzzerTestOneInput(const u8 *data, size_t n);
int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static void (*const entries[])(const u8 *, iz) = {fuzz_json, fuzz_http, fuzz_event, fuzz_tfl};
    if (n)
        entries[data[0] % countof(entries)](data + 1, (iz)n - 1);
    return 0;
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
    {"addresses_of_hosts", test_addresses_of_hosts},
    {"platform_sockets", test_platform_sockets},
    {"connection_life", test_connection_life},
    {"connection_errors", test_connection_errors},
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
    {"e2e_ten_thousand", test_e2e_ten_thousand},
    {"e2e_no_secret_in_any_log", test_e2e_no_secret_in_any_log},
};

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
    if (!good && !bad && !left_out)
        fprintf(stderr, "no test's name contains %s\n", wanted), bad++;
    printf("%d passed, %d failed, %d skipped\n", good, bad, left_out);
    return bad > 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "run") && argc == 2)
        return command_run();
    if (!strcmp(command, "serve") && argc <= 3)
        return command_serve(argc > 2 ? atoi(argv[2]) : 0);
    if (!strcmp(command, "vectors") && argc > 2)
        return command_vectors(argc - 2, argv + 2);
    if (argc <= 2 && command[0] != '-')
        return command_test(command);
    fprintf(stderr, "usage: skill_test [NAME | run | serve [PORT] | vectors FILE...]\n");
    return 2;
}

#endif
