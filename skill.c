/* skill.c: London Travel, an Alexa skill, as one freestanding program for AWS Lambda
 *
 * "Alexa, ask London Travel about the Victoria line." This file is all that runs: the client of
 * the Lambda Runtime API, JSON, HTTP, TfL's API and the speech. It is linked with nothing.
 *
 * Build it in one command (gcc or clang, x86_64 or aarch64); `make` adds the stack guard and makes
 * the program position independent:
 *
 *   cc -Os -ffreestanding -fno-stack-protector -fno-pie -static -nostdlib -s -o bootstrap skill.c
 *
 * Environment
 *   AWS_LAMBDA_RUNTIME_API      host:port of the Runtime API; Lambda sets it
 *   AWS_LAMBDA_LOG_FORMAT       Text (default) or JSON
 *   AWS_LAMBDA_LOG_LEVEL        TRACE, DEBUG, INFO (default), WARN, ERROR, FATAL
 *   Skill__TflApiUrl            base URL of TfL's API, default https://api.tfl.gov.uk/
 *   Skill__TflApplicationId     TfL's app_id, and
 *   Skill__TflApplicationKey    its app_key; without them TfL is asked anonymously
 *   Skill__SkillApiUrl          base URL of the preferences API; without it there is no commute
 *   Skill__SkillId              this skill's application id
 *   Skill__VerifySkillId        refuse other skills' requests; true when Skill__SkillId is set
 *
 * Verified: every byte of an event, of an answer's head and of its JSON, by strict grammar and
 * named limits; the application id; all that becomes part of a request.
 * Deliberately not done: no recursion on input, no allocation beyond two fixed arenas, no thread,
 * no signal handler, no reliance on SIGTERM, no guess at a malformed answer.
 *
 * Sections; each uses only those above it
 *    1 types, limits, errors
 *    2 platform
 *    3 bytes and strings
 *    4 arenas, reader, writer
 *    5 JSON
 *    9 DNS
 *   10 connections
 *   11 HTTP/1.1
 *   12 Lambda Runtime API
 *   13 Alexa
 *   14 TfL and preferences
 *   15 speech and intents
 *   16 the loop
 *   17 Linux
 */

/* ---------------------------------------------------------------------------------------------
 * 1 types, limits, errors
 *
 * Sizes and counts are signed (iz), so that a difference can be negative and be seen to be. A
 * byte string is a pointer and a length, passed by value, never ended by NUL. `err` is the one
 * enumeration of all that can go wrong; zero is no error. What contradicts the program itself,
 * rather than its input, traps: `invariant` stays in every build.
 * ------------------------------------------------------------------------------------------ */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef __PTRDIFF_TYPE__ iz;
typedef __SIZE_TYPE__ uz;
typedef _Bool b32;

#define countof(array) ((iz)(sizeof(array) / sizeof *(array)))
#define invariant(truth) ((truth) ? (void)0 : __builtin_trap())

/* A byte string: a slice of somebody else's memory. A null pointer tells "not there" from "". */
typedef struct {
    const u8 *ptr;
    iz len;
} str;

/* Built by a function: from a constant struct clang would make a pointer in memory, which needs a
 * relocation. */
static str str_of(const char *text, iz len)
{
    str s;
    s.ptr = (const u8 *)text;
    s.len = len;
    return s;
}

#define S(literal) str_of(literal, (iz)sizeof(literal) - 1)

/* Durations and points in time are nanoseconds of the monotonic clock, in i64. */
#define MS ((i64)1000000)
#define SECOND (1000 * MS)

enum {
    FOREVER = -1, /* a deadline that never comes */

    EVENT_MAX = 6 * 1024 * 1024 + 1024, /* Lambda's own limit of an event, and a little */
    PROCESS_BYTES = 64 * 1024,          /* connections and configuration */
    INVOCATION_BYTES = EVENT_MAX + 2 * 1024 * 1024, /* the event and all that its answer needs */
    ARENA_GAP = 32, /* poisoned bytes behind each allocation where AddressSanitizer looks on */

    JSON_DEPTH = 1000,  /* open brackets; real events and answers stay under 20 */
    JSON_PATH_MAX = 64, /* a longer path of names cannot be one that the program asks for */

    CONNECTION_BUFFER = 4096, /* one read of plain HTTP; an Alexa event takes one or two */

    HTTP_LINE_MAX = 8192,    /* a status line, header or chunk line; the norm among servers */
    HTTP_HEAD_MAX = 32768,   /* all header lines that are kept */
    HTTP_HEADERS_MAX = 100,  /* headers of one answer, and as many trailers */
    HTTP_INTERIM_MAX = 8,    /* 1xx answers before the real one */
    HTTP_TRIES = 3,          /* one request and two repeats */
    HTTP_REQUEST_MAX = 4096, /* a request without its body */
    URL_MAX = 1024,          /* a configured base URL */

    LAMBDA_TRIES = 4,         /* failures in a row to be given an event */
    LAMBDA_ID_MAX = 256,      /* a request, invocation or trace id; real ones have 36 to 110 */
    LAMBDA_ANSWER_MAX = 4096, /* what the Runtime API says to a POST; a few dozen bytes */
    LAMBDA_POST_ROOM = 2 * (HTTP_REQUEST_MAX + HTTP_HEAD_MAX + LAMBDA_ANSWER_MAX), /* two tries */
    LOG_LINE_MAX = 2048, /* a log line; longer texts are cut */
    LOG_WORD_MAX = 64,   /* a name from outside inside a log line */

    ALEXA_RESPONSE_MAX = 24000, /* 24 KB is the old, safe bound of a response */
    ALEXA_TEXT_MAX = 8000,      /* characters of speech with tags, and of a card */
    ALEXA_CARD_TITLE_MAX = 100, /* taken out of the card's 8,000 */
    ALEXA_TOKEN_MAX = 2048,     /* an access token; Alexa's own limit */

    UPSTREAM_BODY_MAX = 256 * 1024, /* TfL's answer for all lines is about 21 KB */
    LINE_ID_MAX = 32,               /* a TfL line id; the longest of today has 16 */
    LINES_PER_CALL = 20,            /* TfL takes about that many ids */
    FAVOURITES_MAX = 60,            /* ids of one user: three calls */
    MESSAGES_MAX = 128,             /* paragraphs of one answer */
    REASONS_MAX = 32,               /* statuses of one line */
    LINE_MESSAGE_MAX = 16000,       /* what is said of one line, before it is cut to be spoken */
};

static const i64 INVOCATION_BUDGET = 7 * SECOND; /* Alexa waits about 8 s */
static const i64 LAMBDA_MARGIN = 300 * MS;       /* kept back from the function's deadline */
static const i64 KEPT_SILENCE = 2 * SECOND;      /* first byte on a connection that was kept */
static const i64 RETRY_PAUSE = 100 * MS;         /* before the first repeat; then three times it */

/* Every error, with the sentence that a log line gives for it. The names are letters only, since
 * Lambda keeps an error type only in the form (Runtime|Function).[A-Z][A-Za-z]+. */
#define ERRORS(X)                                                      \
    X(None, "no error")                                                \
    X(OutOfMemory, "the memory for this event is used up")             \
    X(BufferFull, "the text is too long for its buffer")               \
    X(Truncated, "the input ends inside an item")                      \
    X(JsonEmpty, "there is no JSON value")                             \
    X(JsonTruncated, "the JSON ends inside a value")                   \
    X(JsonSyntax, "a character that JSON does not allow here")         \
    X(JsonTooDeep, "over 1000 open JSON brackets")                     \
    X(JsonUtf, "the JSON text is not UTF-8")                           \
    X(JsonControl, "a control character in a JSON string")             \
    X(JsonEscape, "an unknown escape in a JSON string")                \
    X(JsonNumber, "a JSON number is malformed")                        \
    X(JsonTrailing, "something follows the JSON value")                \
    X(JsonShape, "the JSON is not what was asked for")                 \
    X(ConnectRefused, "the connection was refused")                    \
    X(ConnectionReset, "the connection was reset")                     \
    X(ConnectionClosed, "the connection was closed first")             \
    X(TimedOut, "the time budget ended first")                         \
    X(Unreachable, "the address cannot be reached")                    \
    X(NetworkFailure, "the network failed")                            \
    X(HostUnknown, "the host is no address and not localhost")         \
    X(HttpsMissing, "HTTPS is not built in yet")                       \
    X(UrlMalformed, "a base URL is malformed")                         \
    X(UrlInsecure, "http is for loopback addresses only")              \
    X(HttpStatusLine, "no HTTP/1.x status line")                       \
    X(HttpHeader, "a header is malformed")                             \
    X(HttpLineEnd, "a bare CR or LF, or a control character")          \
    X(HttpLineTooLong, "a line over 8192 bytes")                       \
    X(HttpTooManyHeaders, "over 100 headers")                          \
    X(HttpHeadTooLong, "headers over 32768 bytes")                     \
    X(HttpLength, "Content-Length is malformed or in conflict")        \
    X(HttpTransferEncoding, "a transfer coding that is not chunked")   \
    X(HttpNoLength, "an answer without a length")                      \
    X(HttpChunk, "a chunk is malformed")                               \
    X(HttpChunkSize, "a chunk too large for any body")                 \
    X(HttpBodyTooLarge, "the body is over its limit")                  \
    X(HttpTruncated, "the answer was cut off")                         \
    X(HttpInterim, "too many 1xx answers, or a 101")                   \
    X(HttpRequestUnsafe, "a character unfit for a request")            \
    X(HttpBusy, "the service answered 408, 429 or 5xx")                \
    X(HttpStatus, "an unexpected status")                              \
    X(RuntimeApiUrl, "AWS_LAMBDA_RUNTIME_API is missing or malformed") \
    X(RuntimeApiStatus, "an unexpected status")                        \
    X(RequestIdInvalid, "no request id of visible ASCII")              \
    X(InvocationIdInvalid, "an invocation id not of visible ASCII")    \
    X(TraceIdInvalid, "a trace id not of visible ASCII")               \
    X(SkillIdMismatch, "the request is not for this skill")            \
    X(NotAnAlexaRequest, "no request with a type in the event")        \
    X(AccessTokenInvalid, "the token is more than RFC 6750 allows")    \
    X(AccessTokenRefused, "the access token was refused")              \
    X(LineIdInvalid, "a line id is more than a-z, 0-9 and -")          \
    X(LineUnknown, "TfL does not know the line")                       \
    X(PreferencesNotSet, "Skill__SkillApiUrl is not set")              \
    X(UnhandledRequestType, "a type that the skill does not handle")   \
    X(UnhandledIntent, "an intent that is not the skill's")            \
    X(SkillException, "Alexa reports that an answer failed")

typedef enum {
#define X(name, sentence) E_##name,
    ERRORS(X)
#undef X
} err;

/* ---------------------------------------------------------------------------------------------
 * 2 platform
 *
 * All that the program asks of its surroundings. Section 17 answers by system calls; the tests
 * answer by libc, or with a script. Deadlines are points on os_monotonic's clock, or FOREVER.
 * ------------------------------------------------------------------------------------------ */

/* An address and port, the port in host order; an IPv4 address lies in ip[0..3]. */
typedef struct {
    u8 ip[16];
    b32 v6;
    u16 port;
} address;

static i64 os_monotonic(void); /* ns, never set back */
static i64 os_unix_ms(void);   /* ms since 1970, UTC */
static void os_sleep(i64 until);

/* A connected TCP socket. The sockets of the Runtime API have the deadline FOREVER throughout. */
static err os_connect(i32 *fd, const address *to, i64 deadline);
/* Sends all of data. */
static err os_send(i32 fd, str data, i64 deadline);
/* Receives 1..cap bytes; 0 at the end of the stream; -1 with *error set. */
static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error);
static void os_close(i32 fd);

/* One line for the log, in one write. */
static void os_log(str text);

/* Marks what lies behind a new allocation, at most `room` bytes, as not to be touched and returns
 * its size: 0 in the program, ARENA_GAP under AddressSanitizer. os_unguard undoes a region. */
static iz os_guard(u8 *at, iz room);
static void os_unguard(u8 *from, iz n);

/* ---------------------------------------------------------------------------------------------
 * 3 bytes and strings
 *
 * Text is ASCII where the program decides something, UTF-8 where it only carries it. Case is
 * folded for A to Z alone. A blank is a space or a tab, as in HTTP; JSON and TfL's texts count
 * CR and LF as well, and say so where they do.
 * ------------------------------------------------------------------------------------------ */

void *memcpy(void *restrict to, const void *restrict from, uz n);
void *memset(void *to, int byte, uz n);
void *memmove(void *to, const void *from, uz n);
int memcmp(const void *a, const void *b, uz n);

static void copy(u8 *to, const u8 *from, iz n)
{
    invariant(n >= 0);
    if (n)
        memcpy(to, from, (uz)n);
}

/* Overwrites with zeros in a way that no compiler takes for useless. */
static void wipe(void *p, iz n)
{
    invariant(n >= 0);
    if (n)
        memset(p, 0, (uz)n);
    __asm__ volatile("" : : "r"(p) : "memory");
}

static b32 str_eq(str a, str b)
{
    return a.len == b.len && (!a.len || !memcmp(a.ptr, b.ptr, (uz)a.len));
}

/* Bytes from..to of s; the bounds are the caller's promise and are checked. */
static str str_span(str s, iz from, iz to)
{
    invariant(0 <= from && from <= to && to <= s.len);
    return (str){from ? s.ptr + from : s.ptr, to - from}; /* s.ptr may be null */
}

static str str_from(str s, iz from)
{
    return str_span(s, from, s.len);
}

/* Byte i, or 0 beyond either end, so that a look at a neighbour needs no bounds of its own. */
static u8 str_at(str s, iz i)
{
    return 0 <= i && i < s.len ? s.ptr[i] : 0;
}

/* The text of a fixed array that is filled up with NUL, as the tables of this file hold it. */
static str str_of_array(const char *text, iz cap)
{
    iz n = 0;
    while (n < cap && text[n])
        n++;
    return (str){(const u8 *)text, n};
}

#define T(array) str_of_array(array, countof(array))

static b32 str_is(str s, const char *literal)
{
    return str_eq(s, str_of_array(literal, s.len + 1));
}

static b32 is_digit(u8 c)
{
    return c >= '0' && c <= '9';
}

static u8 to_lower(u8 c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static b32 is_upper(u8 c)
{
    return c >= 'A' && c <= 'Z';
}

static b32 is_alnum(u8 c)
{
    return is_digit(c) || (to_lower(c) >= 'a' && to_lower(c) <= 'z');
}

/* Is it one of the characters of a literal? NUL never is. */
static b32 is_one_of(u8 c, const char *set)
{
    while (*set)
        if (c == (u8)*set++)
            return 1;
    return 0;
}

static b32 is_space(u8 c)
{
    return is_one_of(c, " \t\r\n");
}

/* The value of a hexadecimal digit, or -1. */
static i32 hex_value(u8 c)
{
    if (is_digit(c))
        return c - '0';
    c = to_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static b32 str_starts(str s, str prefix)
{
    return s.len >= prefix.len && str_eq(str_span(s, 0, prefix.len), prefix);
}

static b32 str_ends(str s, str suffix)
{
    return s.len >= suffix.len && str_eq(str_from(s, s.len - suffix.len), suffix);
}

/* Order without regard to the case of A to Z: negative, zero or positive. */
static i32 str_order_nocase(str a, str b)
{
    for (iz i = 0; i < a.len && i < b.len; i++) {
        i32 d = to_lower(a.ptr[i]) - to_lower(b.ptr[i]);
        if (d)
            return d;
    }
    return (a.len > b.len) - (a.len < b.len);
}

static b32 str_eq_nocase(str a, str b)
{
    return a.len == b.len && !str_order_nocase(a, b);
}

/* The index of the first such byte, or -1. */
static iz str_find(str s, u8 byte)
{
    for (iz i = 0; i < s.len; i++)
        if (s.ptr[i] == byte)
            return i;
    return -1;
}

static str str_trim(str s)
{
    while (s.len && is_space(s.ptr[0]))
        s = str_from(s, 1);
    while (s.len && is_space(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

static i64 earlier(i64 a, i64 b)
{
    return a < b ? a : b;
}

/* Takes what stands before `byte` off the front of *s, and `byte` with it; all of *s if there is
 * none. */
static str str_cut(str *s, u8 byte)
{
    iz i = str_find(*s, byte);
    str head = i < 0 ? *s : str_span(*s, 0, i);
    *s = i < 0 ? str_from(*s, s->len) : str_from(*s, i + 1);
    return head;
}

/* Row n of a text of rows, each ended by a line feed. */
static str text_row(str text, i32 n)
{
    str row = str_cut(&text, '\n');
    for (i32 i = 0; i < n; i++)
        row = str_cut(&text, '\n');
    return row;
}

/* A decimal number of digits alone, at most `max`; false for anything else, "" included, and
 * *value is then as before. */
static b32 str_to_uint(str s, u64 max, u64 *value)
{
    u64 v = 0;
    for (iz i = 0; i < s.len; i++) {
        if (!is_digit(s.ptr[i]) || v > max / 10 || v * 10 > max - (u64)(s.ptr[i] - '0'))
            return 0;
        v = v * 10 + (u64)(s.ptr[i] - '0');
    }
    if (s.len)
        *value = v;
    return s.len > 0;
}

/* Visible ASCII only, and 1..max bytes: what an id must be to become part of a request. */
static b32 str_is_visible(str s, iz max)
{
    for (iz i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] >= 0x7f)
            return 0;
    return s.len > 0 && s.len <= max;
}

/* The value of a variable of the environment, or {0, 0}. `env` ends with a null pointer. */
static str env_get(const char *const *env, str name)
{
    for (; *env; env++) {
        const u8 *at = (const u8 *)*env;
        iz n = 0;
        while (n < name.len && at[n] == name.ptr[n])
            n++;
        if (n < name.len || at[n] != '=')
            continue;
        str value = {at + n + 1, 0};
        while (value.ptr[value.len])
            value.len++;
        return value;
    }
    return (str){0, 0};
}

/* Days from 1970-01-01 to a date of the Gregorian calendar; month 13 is the next January. */
static i64 days_of_date(i64 year, i64 month, i64 day)
{
    i64 y = month <= 2 ? year - 1 : year; /* years begin in March, so that leap days come last */
    i64 m = month <= 2 ? month + 9 : month - 3;
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719469;
}

/* ---------------------------------------------------------------------------------------------
 * 4 arenas, reader, writer
 *
 * An arena only grows; the invocation's is wiped and rewound between two events. What lies beyond
 * `at` is always zero. A reader walks a slice, a writer fills a buffer. Each keeps its first
 * error; later calls on it do nothing and give zeros, so that a whole message is parsed or
 * written and the error looked at once. These three are where bounds are checked.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    u8 *start, *at, *end;
} arena;

static arena arena_of(u8 *memory, iz n)
{
    arena a;
    __asm__("" : "+r"(n)); /* folded into one address it would need a relocation on aarch64 */
    a.start = a.at = memory;
    a.end = memory + n;
    return a;
}

/* Room for n bytes, zeroed and aligned to 16, or null when the arena is full. */
static void *arena_alloc(arena *a, iz n)
{
    iz pad = -(iz)(uz)a->at & 15;
    iz left = a->end - a->at;
    invariant(n >= 0);
    if (left < pad || n > left - pad)
        return 0;
    u8 *p = a->at + pad;
    a->at = p + n;
    a->at += os_guard(a->at, a->end - a->at);
    return p;
}

#define arena_new(arena, type, count) ((type *)arena_alloc(arena, (iz)sizeof(type) * (count)))

/* Takes back and wipes everything from `mark` on, a former value of a->at. */
static void arena_rewind(arena *a, u8 *mark)
{
    os_unguard(mark, a->at - mark);
    wipe(mark, a->at - mark);
    a->at = mark;
}

static void arena_reset(arena *a)
{
    arena_rewind(a, a->start);
}

typedef struct {
    u8 *buf;
    iz len, cap;
    err error;
} writer;

static writer writer_of(u8 *buf, iz cap)
{
    return (writer){buf, 0, cap, E_None};
}

static str written(const writer *w)
{
    return (str){w->buf, w->len};
}

/* Takes back what was written beyond n bytes, and wipes it: what lies behind a writer's text is
 * zero if it was so before. */
static void writer_cut(writer *w, iz n)
{
    if (n >= w->len)
        return;
    wipe(w->buf + n, w->len - n);
    w->len = n;
}

/* A writer over the next cap bytes of the arena, fewer if it has fewer. Nothing else may be
 * allocated until arena_keep takes what was written and gives the rest back. */
static writer arena_writer(arena *a, iz cap)
{
    iz left = a->end - a->at - 2 * ARENA_GAP;
    if (cap > left)
        cap = left > 0 ? left : 0;
    u8 *buf = arena_alloc(a, cap);
    writer w = writer_of(buf, buf ? cap : 0);
    w.error = buf ? E_None : E_OutOfMemory;
    return w;
}

static str arena_keep(arena *a, const writer *w)
{
    if (!w->buf)
        return S("");
    u8 *end = w->buf + w->len;
    invariant(end <= a->at && w->buf >= a->start && a->at - (w->buf + w->cap) <= ARENA_GAP);
    os_unguard(end, a->at - end);
    a->at = end;
    a->at += os_guard(a->at, a->end - a->at);
    return written(w);
}

static void put(writer *w, str s)
{
    if (!w->error && s.len > w->cap - w->len)
        w->error = E_BufferFull;
    if (w->error || !s.len)
        return;
    copy(w->buf + w->len, s.ptr, s.len);
    w->len += s.len;
}

/* A literal. */
static void put_text(writer *w, const char *text)
{
    put(w, str_of_array(text, URL_MAX));
}

static void put_byte(writer *w, u8 byte)
{
    put(w, (str){&byte, 1});
}

/* Decimal, with leading zeros to at least `digits` digits. */
static void put_uint(writer *w, u64 v, iz digits)
{
    u8 text[20]; /* 2^64 has 20 digits */
    iz at = countof(text);
    invariant(digits <= countof(text));
    do
        text[--at] = (u8)('0' + v % 10);
    while (v /= 10);
    while (countof(text) - at < digits)
        text[--at] = '0';
    put(w, (str){text + at, countof(text) - at});
}

/* A point in time, in ms since 1970, as RFC 3339 text of UTC with milliseconds. */
static void put_time(writer *w, i64 unix_ms)
{
    i64 ms = unix_ms % 86400000, day = unix_ms / 86400000;
    i64 year = 1970 + day / 366; /* never too late, and too early by a year for each 1,461 days */
    while (days_of_date(year + 1, 1, 1) <= day)
        year++;
    i64 month = 1;
    while (month < 12 && days_of_date(year, month + 1, 1) <= day)
        month++;
    i64 part[] = {year,         month,           day - days_of_date(year, month, 1) + 1,
                  ms / 3600000, ms / 60000 % 60, ms / 1000 % 60,
                  ms % 1000};
    for (iz i = 0; i < countof(part); i++) {
        put_uint(w, (u64)part[i], i == 0 ? 4 : i == 6 ? 3 : 2);
        put_byte(w, S("--T::.Z").ptr[i]);
    }
}

/* A code point as UTF-8; a surrogate or what is beyond U+10FFFF becomes U+FFFD. */
static void put_utf8(writer *w, u32 c)
{
    if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        c = 0xfffd;
    i32 more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    u32 lead = more ? 0xf80u >> more & 0xff : 0; /* 110..., 1110... or 11110... */
    put_byte(w, (u8)(lead | c >> 6 * more));
    while (more--)
        put_byte(w, (u8)(0x80 | (c >> 6 * more & 63)));
}

typedef struct {
    const u8 *at, *end;
    err error;
} reader;

static reader reader_of(str s)
{
    return (reader){s.ptr, s.len ? s.ptr + s.len : s.ptr, E_None};
}

static void reader_fail(reader *r, err error)
{
    if (!r->error)
        r->error = error;
    r->at = r->end;
}

static iz reader_left(const reader *r)
{
    return r->end - r->at;
}

/* The next byte without taking it, or 0 at the end. */
static u8 reader_peek(const reader *r)
{
    return r->at < r->end ? *r->at : 0;
}

/* The next n bytes as a slice, or an empty slice and E_Truncated. */
static str read_bytes(reader *r, iz n)
{
    invariant(n >= 0);
    if (n > reader_left(r)) {
        reader_fail(r, E_Truncated);
        return (str){r->end, 0};
    }
    str s = {r->at, n};
    r->at += n;
    return s;
}

static u8 read_byte(reader *r)
{
    str s = read_bytes(r, 1);
    return s.len ? s.ptr[0] : 0;
}

/* Takes exactly `digits` decimal digits; E_Truncated if they are not there. */
static i64 read_decimal(reader *r, iz digits)
{
    u64 value = 0;
    if (!str_to_uint(read_bytes(r, digits), 999999, &value))
        reader_fail(r, E_Truncated);
    return (i64)value;
}

/* Steps over printable ASCII other than '"' and '\\', eight bytes at a time: nearly all of the
 * inside of JSON strings. For each byte b of a word, the four tests set bit 7 where b has bit 7, is
 * under 0x20, is 0x22 or is 0x5c. A borrow can only set bits above a byte that is marked itself,
 * and a marked word is gone through byte by byte. */
static void read_plain(reader *r)
{
    const u64 ones = 0x0101010101010101, tops = ones << 7;
    while (reader_left(r) >= 8) {
        u64 v;
        memcpy(&v, r->at, 8);
        u64 quote = v ^ ones * '"', slash = v ^ ones * '\\';
        u64 marks = v | (v - ones * ' ') | (quote - ones) | (slash - ones);
        if (marks & tops)
            break;
        r->at += 8;
    }
    while (r->at < r->end && *r->at >= ' ' && *r->at < 0x80 && *r->at != '"' && *r->at != '\\')
        r->at++;
}

/* The next code point of UTF-8 by the table of RFC 3629 section 4: no overlong form, no
 * surrogate, nothing beyond U+10FFFF. The reader fails with E_JsonUtf otherwise. */
static u32 read_utf8(reader *r)
{
    u32 c = read_byte(r);
    if (c < 0x80)
        return c;
    iz more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    u32 least = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
    if (c < 0xc2 || c > 0xf4 || reader_left(r) < more) {
        reader_fail(r, E_JsonUtf);
        return 0;
    }
    c &= 0x3fu >> more;
    for (iz i = 0; i < more; i++) {
        u8 next = read_byte(r);
        if ((next & 0xc0) != 0x80)
            reader_fail(r, E_JsonUtf);
        c = c << 6 | (next & 63);
    }
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        reader_fail(r, E_JsonUtf);
    return r->error ? 0 : c;
}

/* ---------------------------------------------------------------------------------------------
 * 5 JSON
 *
 * A pull tokenizer for RFC 8259, whole and strict: each call of json_next gives one token, and a
 * text that ends with JSON_END without an error is one JSON value and nothing else. Open brackets
 * are kept as one bit each, so that depth costs no recursion. A string stays where it is, escapes
 * and all, until somebody asks for its text; one without escapes is never copied.
 *
 * Where an object holds a name twice the first one counts: a walk skips those that follow.
 * A \u escape of half a surrogate pair is within the grammar and reads as U+FFFD. A byte order
 * mark is refused, as RFC 8259 section 8.1 lets a parser do.
 * ------------------------------------------------------------------------------------------ */

typedef enum {
    JSON_END,
    JSON_OBJECT,
    JSON_OBJECT_END,
    JSON_ARRAY,
    JSON_ARRAY_END,
    JSON_NAME,
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
} json_kind;

/* What the grammar allows at the place that the reader has come to. */
typedef enum {
    JSON_WANT_VALUE,
    JSON_WANT_VALUE_OR_END, /* behind [ */
    JSON_WANT_NAME,
    JSON_WANT_NAME_OR_END, /* behind { */
    JSON_WANT_COMMA_OR_END,
    JSON_WANT_NOTHING,
} json_want;

typedef struct {
    reader in;
    json_want want;
    json_kind kind; /* the last token, */
    str text;       /* and its text: a string without its quotes, or a number */
    iz depth;
    u8 objects[JSON_DEPTH / 8 + 1]; /* bit d: is the bracket open at depth d that of an object */
} json;

static void json_start(json *j, str text)
{
    j->in = reader_of(text);
    j->want = JSON_WANT_VALUE;
    j->kind = JSON_END;
    j->text = S("");
    j->depth = 0;
}

static json_kind json_fail(json *j, err error)
{
    reader_fail(&j->in, error);
    return j->kind = JSON_END;
}

static b32 json_in_object(const json *j)
{
    return j->depth > 0 && (j->objects[j->depth / 8] >> (j->depth % 8) & 1);
}

static void json_after_value(json *j)
{
    j->want = j->depth ? JSON_WANT_COMMA_OR_END : JSON_WANT_NOTHING;
}

static void json_skip_space(json *j)
{
    while (is_space(reader_peek(&j->in)))
        read_byte(&j->in);
}

static json_kind json_open(json *j, b32 object)
{
    if (j->depth == JSON_DEPTH)
        return json_fail(j, E_JsonTooDeep);
    j->depth++;
    u8 bit = (u8)(1 << (j->depth % 8));
    u8 *byte = &j->objects[j->depth / 8];
    *byte = object ? *byte | bit : *byte & (u8)~bit;
    j->want = object ? JSON_WANT_NAME_OR_END : JSON_WANT_VALUE_OR_END;
    return j->kind = object ? JSON_OBJECT : JSON_ARRAY;
}

static json_kind json_shut(json *j, b32 object)
{
    b32 fits = j->want == JSON_WANT_COMMA_OR_END ||
               j->want == (object ? JSON_WANT_NAME_OR_END : JSON_WANT_VALUE_OR_END);
    if (!fits || !j->depth || json_in_object(j) != object)
        return json_fail(j, E_JsonSyntax);
    j->depth--;
    json_after_value(j);
    return j->kind = object ? JSON_OBJECT_END : JSON_ARRAY_END;
}

/* Four hexadecimal digits. */
static u32 json_unit(reader *r)
{
    u32 unit = 0;
    str digits = read_bytes(r, 4);
    for (iz i = 0; i < digits.len; i++) {
        i32 digit = hex_value(digits.ptr[i]);
        if (digit < 0)
            reader_fail(r, E_JsonEscape);
        unit = unit << 4 | (u32)(digit & 15);
    }
    return unit;
}

/* One escape behind its backslash, as a code point; a pair of surrogates is one escape. */
static u32 json_escape(reader *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    u8 c = read_byte(r);
    for (iz i = 0; i < countof(from) - 1; i++)
        if (c == from[i])
            return (u8)to[i];
    if (c != 'u')
        reader_fail(r, E_JsonEscape);
    u32 unit = json_unit(r);
    if (unit < 0xd800 || unit > 0xdbff)
        return unit;
    reader ahead = *r; /* a high half: is its low half there? */
    if (!str_is(read_bytes(&ahead, 2), "\\u"))
        return unit;
    u32 low = json_unit(&ahead);
    if (ahead.error || low < 0xdc00 || low > 0xdfff)
        return unit;
    *r = ahead;
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
}

/* Steps over a string behind its opening quote; j->text is what stands between the quotes. */
static void json_string(json *j)
{
    reader *r = &j->in;
    const u8 *start = r->at;
    for (;;) {
        read_plain(r);
        u8 c = reader_peek(r);
        if (!reader_left(r)) {
            json_fail(j, E_JsonTruncated);
            return;
        } else if (c == '"') {
            break;
        } else if (c == '\\') {
            read_byte(r);
            json_escape(r);
        } else if (c < ' ') {
            json_fail(j, E_JsonControl);
            return;
        } else {
            read_utf8(r);
        }
    }
    j->text = (str){start, r->at - start};
    read_byte(r);
}

static iz json_digits(reader *r)
{
    const u8 *start = r->at;
    while (is_digit(reader_peek(r)))
        read_byte(r);
    return r->at - start;
}

/* number = [ "-" ] int [ frac ] [ exp ], RFC 8259 section 6 */
static json_kind json_number(json *j)
{
    reader *r = &j->in;
    const u8 *start = r->at;
    if (reader_peek(r) == '-')
        read_byte(r);
    b32 zero = reader_peek(r) == '0';
    iz digits = json_digits(r);
    b32 good = digits == 1 || (digits > 1 && !zero);
    if (good && reader_peek(r) == '.') {
        read_byte(r);
        good = json_digits(r) > 0;
    }
    if (good && (reader_peek(r) | 0x20) == 'e') {
        read_byte(r);
        if (reader_peek(r) == '+' || reader_peek(r) == '-')
            read_byte(r);
        good = json_digits(r) > 0;
    }
    if (!good)
        return json_fail(j, E_JsonNumber);
    j->text = (str){start, r->at - start};
    json_after_value(j);
    return j->kind = JSON_NUMBER;
}

static json_kind json_word(json *j, str word, json_kind kind)
{
    if (!str_eq(read_bytes(&j->in, word.len), word))
        return json_fail(j, E_JsonSyntax);
    json_after_value(j);
    return j->kind = kind;
}

static json_kind json_value(json *j)
{
    switch (reader_peek(&j->in)) {
    case '{':
        read_byte(&j->in);
        return json_open(j, 1);
    case '[':
        read_byte(&j->in);
        return json_open(j, 0);
    case '"':
        read_byte(&j->in);
        json_string(j);
        json_after_value(j);
        return j->kind = j->in.error ? JSON_END : JSON_STRING;
    case 't':
        return json_word(j, S("true"), JSON_TRUE);
    case 'f':
        return json_word(j, S("false"), JSON_FALSE);
    case 'n':
        return json_word(j, S("null"), JSON_NULL);
    }
    if (reader_peek(&j->in) == '-' || is_digit(reader_peek(&j->in)))
        return json_number(j);
    return json_fail(j, E_JsonSyntax);
}

/* A member's name with the colon behind it. */
static json_kind json_name(json *j)
{
    if (read_byte(&j->in) != '"')
        return json_fail(j, E_JsonSyntax);
    json_string(j);
    json_skip_space(j);
    if (!j->in.error && !reader_left(&j->in))
        return json_fail(j, E_JsonTruncated);
    if (read_byte(&j->in) != ':')
        return json_fail(j, E_JsonSyntax);
    j->want = JSON_WANT_VALUE;
    return j->kind = JSON_NAME;
}

static json_kind json_token(json *j)
{
    if (!reader_left(&j->in)) {
        if (j->want == JSON_WANT_NOTHING)
            return j->kind = JSON_END;
        return json_fail(j, j->kind == JSON_END ? E_JsonEmpty : E_JsonTruncated);
    }
    if (j->want == JSON_WANT_NOTHING)
        return json_fail(j, E_JsonTrailing);
    u8 c = reader_peek(&j->in);
    if (c == '}' || c == ']') {
        read_byte(&j->in);
        return json_shut(j, c == '}');
    }
    if (j->want == JSON_WANT_COMMA_OR_END) {
        if (read_byte(&j->in) != ',')
            return json_fail(j, E_JsonSyntax);
        j->want = json_in_object(j) ? JSON_WANT_NAME : JSON_WANT_VALUE;
        json_skip_space(j);
        if (!reader_left(&j->in))
            return json_fail(j, E_JsonTruncated);
    }
    if (j->want == JSON_WANT_NAME || j->want == JSON_WANT_NAME_OR_END)
        return json_name(j);
    return json_value(j);
}

/* The next token. JSON_END is the end of the text, or the first error (j->in.error). */
static json_kind json_next(json *j)
{
    json_skip_space(j);
    if (!j->in.error)
        json_token(j);
    if (j->in.error == E_Truncated)
        j->in.error = E_JsonTruncated;
    return j->kind = j->in.error ? JSON_END : j->kind;
}

/* Goes on to the end of a value whose first token has just been read. */
static void json_skip_rest(json *j)
{
    if (j->kind != JSON_OBJECT && j->kind != JSON_ARRAY)
        return;
    iz outside = j->depth - 1;
    while (json_next(j) != JSON_END && j->depth > outside)
        ;
}

static void json_skip(json *j)
{
    json_next(j);
    json_skip_rest(j);
}

/* Enters the next value if it is of that kind; else steps over it and gives false. */
static b32 json_enter(json *j, json_kind kind)
{
    if (json_next(j) == kind)
        return 1;
    json_skip_rest(j);
    return 0;
}

/* Is there another element in the array? Then the next call reads it; else the array is left. */
static b32 json_element(json *j)
{
    json_skip_space(j);
    if (reader_peek(&j->in) != ']')
        return !j->in.error && reader_left(&j->in) > 0;
    json_next(j);
    return 0;
}

/* The text of a string token, its escapes undone. */
static void json_put_text(writer *w, str raw)
{
    reader r = reader_of(raw);
    while (reader_left(&r)) {
        const u8 *start = r.at;
        while (reader_left(&r) && reader_peek(&r) != '\\')
            read_byte(&r);
        put(w, (str){start, r.at - start});
        if (!reader_left(&r))
            break;
        read_byte(&r);
        put_utf8(w, json_escape(&r));
    }
}

/* A walk through the members of an object, and of objects in it, that have one of the wanted
 * paths: "user.accessToken" is the member accessToken of the member user. */
typedef struct {
    str paths;  /* separated by blanks */
    u32 seen;   /* which of them have been met: bit i for path i */
    iz outside; /* the depth outside the object */
    iz len;     /* the path of the object that the walk is in, */
    u8 path[JSON_PATH_MAX];
} json_walk;

/* Enters the next value if it is an object; else steps over it and gives false. */
static b32 json_walk_start(json_walk *walk, json *j, const char *paths)
{
    walk->paths = str_of_array(paths, URL_MAX);
    walk->seen = 0;
    walk->outside = j->depth;
    walk->len = 0;
    return json_enter(j, JSON_OBJECT);
}

/* Goes into the member that has just been named, as far as the path tells. A name that does not
 * fit, or holds a dot, is none of the wanted ones: false. */
static b32 json_walk_in(json_walk *walk, str name)
{
    writer w = writer_of(walk->path, countof(walk->path));
    w.len = walk->len;
    if (w.len)
        put_byte(&w, '.');
    iz start = w.len;
    json_put_text(&w, name);
    if (w.error || str_find(str_from(written(&w), start), '.') >= 0)
        return 0;
    walk->len = w.len;
    return 1;
}

static void json_walk_out(json_walk *walk)
{
    while (walk->len && walk->path[--walk->len] != '.')
        ;
}

/* What the walk's path is among the wanted ones that have not been met: the index of one, or -1;
 * *inside says whether it leads to some. With `shut` those to which it leads count as met. */
static i32 json_walk_find(json_walk *walk, b32 shut, b32 *inside)
{
    str list = walk->paths, here = {walk->path, walk->len};
    i32 found = -1;
    *inside = 0;
    for (i32 i = 0; list.len; i++) {
        str path = str_cut(&list, ' ');
        invariant(i < 32);
        if ((walk->seen >> i & 1) || !str_starts(path, here))
            continue;
        if (path.len == here.len) {
            found = i;
        } else if (path.ptr[here.len] == '.') {
            *inside = 1;
            walk->seen |= (u32)shut << i;
        }
    }
    return found;
}

/* Moves to the next member that is wanted and gives the index of its path; the caller then reads
 * its value. All other members are stepped over, and so is each one that repeats a name of its
 * object: the first one counts, whatever its value. -1 when the object has been left. */
static i32 json_walk_next(json_walk *walk, json *j)
{
    for (b32 inside;;) {
        json_kind kind = json_next(j);
        if (kind == JSON_OBJECT_END && j->depth > walk->outside) {
            json_walk_find(walk, 1, &inside);
            json_walk_out(walk);
        } else if (kind != JSON_NAME) {
            return -1;
        } else if (!json_walk_in(walk, j->text)) {
            json_skip(j);
        } else {
            i32 found = json_walk_find(walk, 0, &inside);
            if (found < 0 && inside && json_enter(j, JSON_OBJECT))
                continue;
            if (found >= 0)
                walk->seen |= 1u << found;
            else if (inside)
                json_walk_find(walk, 1, &inside);
            else
                json_skip(j);
            json_walk_out(walk);
            if (found >= 0)
                return found;
        }
    }
}

/* The next value as text, decoded into the arena where it holds an escape. null, like a member
 * that is not there, gives a null pointer; a value of any other kind gives "". */
static str json_text(json *j, arena *a)
{
    json_kind kind = json_next(j);
    json_skip_rest(j);
    if (kind == JSON_NULL)
        return (str){0, 0};
    if (kind != JSON_STRING)
        return S("");
    str raw = j->text;
    if (str_find(raw, '\\') < 0)
        return raw;
    writer w = arena_writer(a, raw.len); /* an escape is never shorter than what it stands for */
    json_put_text(&w, raw);
    if (w.error)
        json_fail(j, E_OutOfMemory);
    return arena_keep(a, &w);
}

/* The next value as a whole number up to `max`, or -1 for everything else. */
static i32 json_small(json *j, i32 max)
{
    u64 value;
    json_kind kind = json_next(j);
    json_skip_rest(j);
    return kind == JSON_NUMBER && str_to_uint(j->text, (u64)max, &value) ? (i32)value : -1;
}

static b32 json_is_true(json *j)
{
    json_kind kind = json_next(j);
    json_skip_rest(j);
    return kind == JSON_TRUE;
}

/* Reads to the end of the whole text, which alone shows that it is one JSON value. */
static err json_finish(json *j)
{
    while (json_next(j) != JSON_END)
        ;
    return j->in.error;
}

/* The writer's side. Where a value or name follows another one the comma comes by itself: every
 * value ends in a byte that none of { [ : is. Brackets are balanced by the callers, who write them
 * as literals in pairs. */
static void json_put_comma(writer *w)
{
    u8 last = str_at(written(w), w->len - 1);
    if (last && last != '{' && last != '[' && last != ':')
        put_byte(w, ',');
}

static void json_put_open(writer *w, u8 bracket)
{
    json_put_comma(w);
    put_byte(w, bracket);
}

/* Writes the inside of a string: bytes that are not UTF-8 become U+FFFD, so that the output is
 * valid whatever comes in. */
static void json_put_escaped(writer *w, str s)
{
    static const char hex[] = "0123456789abcdef";
    reader r = reader_of(s);
    while (reader_left(&r) && !w->error) {
        const u8 *start = r.at;
        read_plain(&r);
        put(w, (str){start, r.at - start});
        if (!reader_left(&r))
            break;
        reader one = r;
        u32 c = read_utf8(&one);
        if (one.error) {
            put_utf8(w, 0xfffd);
            read_byte(&r);
            continue;
        }
        r = one;
        if (c == '"' || c == '\\') {
            u8 pair[] = {'\\', (u8)c};
            put(w, (str){pair, 2});
        } else if (c < ' ') {
            u8 six[] = {'\\', 'u', '0', '0', (u8)hex[c >> 4], (u8)hex[c & 15]};
            put(w, (str){six, 6});
        } else {
            put_utf8(w, c);
        }
    }
}

static void json_put_string(writer *w, str s)
{
    json_put_comma(w);
    put_byte(w, '"');
    json_put_escaped(w, s);
    put_byte(w, '"');
}

static void json_put_name(writer *w, const char *name)
{
    json_put_string(w, str_of_array(name, JSON_PATH_MAX));
    put_byte(w, ':');
}

static void json_put_member(writer *w, const char *name, str value)
{
    json_put_name(w, name);
    json_put_string(w, value);
}

/* ---------------------------------------------------------------------------------------------
 * 9 DNS
 *
 * Names are not resolved yet: a host is an IPv4 address in text, [::1] or localhost.
 * ------------------------------------------------------------------------------------------ */

/* Four decimal numbers of 0 to 255 without leading zeros, RFC 3986 section 3.2.2. */
static b32 address_parse_v4(str text, address *to)
{
    for (iz i = 0; i < 4; i++) {
        u64 value;
        if (i < 3 && str_find(text, '.') < 0)
            return 0;
        str part = i < 3 ? str_cut(&text, '.') : text;
        if (!str_to_uint(part, 255, &value) || (part.len > 1 && part.ptr[0] == '0'))
            return 0;
        to->ip[i] = (u8)value;
    }
    to->v6 = 0;
    return 1;
}

static err address_of_host(str host, u16 port, address *to)
{
    *to = (address){.port = port};
    if (str_eq_nocase(host, S("localhost")))
        host = S("127.0.0.1");
    if (address_parse_v4(host, to))
        return E_None;
    if (str_is(host, "[::1]")) {
        to->ip[15] = 1;
        to->v6 = 1;
        return E_None;
    }
    return E_HostUnknown;
}

static b32 address_is_loopback(const address *a)
{
    static const u8 v6[16] = {[15] = 1};
    return a->v6 ? !memcmp(a->ip, v6, 16) : a->ip[0] == 127;
}

/* ---------------------------------------------------------------------------------------------
 * 10 connections
 *
 * A connection is a stream of bytes to one origin, kept open from one request to the next; only
 * here are sockets touched. While it is kept, the sandbox may be frozen for hours and the other
 * end gone without a notice: `kept` says that this is such a connection and `heard` that a byte
 * of the answer to the present request has come, which together decide whether a request may be
 * sent once more. The first error stays until the connection is opened for the next request.
 * ------------------------------------------------------------------------------------------ */

/* Where a URL leads: scheme, host (an IPv6 address in its brackets) and port. */
typedef struct {
    str host;
    u16 port;
    b32 https;
} origin;

typedef struct {
    origin to;
    i32 fd;       /* -1 when closed */
    i64 deadline; /* of the present request */
    b32 kept;     /* an answer has come over this socket before */
    b32 heard;    /* a byte of the present answer has come */
    err error;
    iz at, len; /* bytes of the buffer that are taken, and received */
    u8 buffer[CONNECTION_BUFFER];
} connection;

static void connection_init(connection *c, origin to)
{
    c->to = to;
    c->fd = -1;
    c->at = c->len = 0;
}

/* Closes the socket, if it is open, and wipes what was received. */
static void connection_close(connection *c)
{
    if (c->fd >= 0)
        os_close(c->fd);
    c->fd = -1;
    wipe(c->buffer, c->len);
    c->at = c->len = 0;
}

/* Makes ready for a request and its answer: opens a socket unless one is kept. One that was closed
 * meanwhile, or on which bytes have come that nobody asked for, is not used again (RFC 9112 section
 * 9.2). Errors: of the host (E_HostUnknown, E_HttpsMissing) and of the connect. */
static err connection_open(connection *c, i64 deadline)
{
    err idle = E_None;
    address to;
    if (c->fd >= 0 && (os_recv(c->fd, c->buffer, 1, 0, &idle) >= 0 || idle != E_TimedOut))
        connection_close(c);
    c->deadline = deadline;
    c->heard = 0;
    c->error = E_None;
    c->kept = c->fd >= 0;
    if (c->kept)
        return E_None;
    err error = c->to.https ? E_HttpsMissing : address_of_host(c->to.host, c->to.port, &to);
    if (!error)
        error = os_connect(&c->fd, &to, deadline);
    return c->error = error;
}

static void connection_send(connection *c, str data)
{
    if (!c->error)
        c->error = os_send(c->fd, data, c->deadline);
}

/* Receives more once all is taken. False at the end of the stream and after an error. */
static b32 connection_fill(connection *c)
{
    if (c->error || c->at < c->len)
        return !c->error;
    i64 until = c->deadline;
    if (until != FOREVER) { /* the deadline ends a flow of bytes as well as silence */
        i64 now = os_monotonic();
        if (now >= until) {
            c->error = E_TimedOut;
            return 0;
        }
        if (c->kept && !c->heard)
            until = earlier(until, now + KEPT_SILENCE);
    }
    wipe(c->buffer, c->len);
    c->at = c->len = 0;
    iz n = os_recv(c->fd, c->buffer, CONNECTION_BUFFER, until, &c->error);
    if (n <= 0)
        return 0;
    c->len = n;
    c->heard = 1;
    return 1;
}

/* At most n bytes of what has been received, at least one; empty at the end or after an error. */
static str connection_take(connection *c, iz n)
{
    if (!connection_fill(c))
        return S("");
    iz left = c->len - c->at;
    str s = {c->buffer + c->at, n < left ? n : left};
    c->at += s.len;
    return s;
}

/* ---------------------------------------------------------------------------------------------
 * 11 HTTP/1.1
 *
 * The client's side of RFC 9112. An answer is read straight off its connection, byte by byte
 * through the head and in runs through the body, so that it makes no difference how the network
 * cuts it. The head is kept as lines "name:value\n", names in lower case, values trimmed.
 *
 * Refused, each with its own error: line ends other than CR LF; control characters; folded
 * headers; blanks before a colon; a length that is not plain digits, differs from another one or
 * comes with a transfer coding; transfer codings other than chunked, and chunked before HTTP/1.1.
 * Left out: HTTP/2, content codings (none is asked for), redirects, upgrades, pipelining.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    i32 status;
    str head;    /* the header lines */
    b32 keep;    /* the connection can serve another request */
    b32 chunked; /* how the body is framed: by chunks, */
    i64 length;  /* by a length, or, at -1, by the end of the stream */
    str body;
} http_response;

/* Takes off one header line of a head; false at its end. */
static b32 http_next_header(str *head, str *name, str *value)
{
    if (!head->len)
        return 0;
    *value = str_cut(head, '\n');
    *name = str_cut(value, ':');
    return 1;
}

/* The value of the first header of that name, given in lower case; a null pointer if none. */
static str http_header(const http_response *r, str wanted)
{
    str head = r->head, name, value;
    while (http_next_header(&head, &name, &value))
        if (str_eq(name, wanted))
            return value;
    return (str){0, 0};
}

static void http_fail(connection *c, err error)
{
    if (!c->error)
        c->error = error;
}

/* The next byte of an answer, or 0 with an error: the end of the stream is one here. */
static u8 http_byte(connection *c)
{
    str s = connection_take(c, 1);
    if (s.len)
        return s.ptr[0];
    http_fail(c, c->heard ? E_HttpTruncated : E_ConnectionClosed);
    return 0;
}

static u8 http_peek(connection *c)
{
    u8 byte = http_byte(c);
    if (!c->error)
        c->at--;
    return byte;
}

static void http_expect(connection *c, str text, err error)
{
    for (iz i = 0; i < text.len && !c->error; i++)
        if (http_byte(c) != text.ptr[i])
            http_fail(c, error);
}

/* Reads on to the end of a line and keeps it in `line` where one is given. `before` bytes of the
 * line have been read already. */
static void http_line_rest(connection *c, writer *line, iz before)
{
    for (iz n = before; !c->error; n++) {
        u8 byte = http_byte(c);
        if (byte == '\r') {
            http_expect(c, S("\n"), E_HttpLineEnd);
            return;
        }
        if ((byte < ' ' && byte != '\t') || byte == 0x7f)
            http_fail(c, E_HttpLineEnd);
        if (n >= HTTP_LINE_MAX)
            http_fail(c, E_HttpLineTooLong);
        if (line)
            put_byte(line, byte);
    }
}

/* tchar, RFC 9110 section 5.6.2 */
static b32 http_is_token(u8 c)
{
    return is_alnum(c) || is_one_of(c, "!#$%&'*+-.^_`|~");
}

/* One header or trailer line, kept in `head` where one is given. False at the empty line that ends
 * them, and after an error. */
static b32 http_header_line(connection *c, writer *head)
{
    if (http_peek(c) == '\r') {
        http_expect(c, S("\r\n"), E_HttpLineEnd);
        return 0;
    }
    iz n = 0;
    u8 byte = http_byte(c);
    for (; http_is_token(byte) && n < HTTP_LINE_MAX - 1; byte = http_byte(c), n++)
        if (head)
            put_byte(head, to_lower(byte));
    if (!c->error && (byte != ':' || !n))
        http_fail(c, n < HTTP_LINE_MAX - 1 ? E_HttpHeader : E_HttpLineTooLong);
    if (head)
        put_byte(head, ':');
    iz start = head ? head->len : 0;
    http_line_rest(c, head, n + 1);
    if (head && !head->error) {
        str value = str_trim((str){head->buf + start, head->len - start});
        memmove(head->buf + start, value.ptr, (uz)value.len);
        writer_cut(head, start + value.len);
    }
    if (head)
        put_byte(head, '\n');
    if (head && head->error)
        http_fail(c, E_HttpHeadTooLong);
    return !c->error;
}

static void http_header_lines(connection *c, writer *head)
{
    for (iz n = 0; http_header_line(c, head); n++)
        if (n == HTTP_HEADERS_MAX)
            http_fail(c, E_HttpTooManyHeaders);
}

/* status-line = HTTP-version SP status-code [ SP reason-phrase ]; the SP behind the code is not
 * missed where there is no phrase. Gives the minor version. */
static u8 http_status_line(connection *c, http_response *r)
{
    http_expect(c, S("HTTP/1."), E_HttpStatusLine);
    u8 minor = http_byte(c);
    http_expect(c, S(" "), E_HttpStatusLine);
    r->status = 0;
    b32 good = is_digit(minor);
    for (iz i = 0; i < 3; i++) {
        u8 digit = http_byte(c);
        good &= is_digit(digit);
        r->status = r->status * 10 + (digit - '0');
    }
    u8 next = http_peek(c);
    if (!good || r->status < 100 || r->status > 599 || (next != ' ' && next != '\r'))
        http_fail(c, E_HttpStatusLine);
    http_line_rest(c, 0, 12);
    if (c->error)
        r->status = 0;
    return minor;
}

/* Does a list of tokens, separated by commas, hold this one? */
static b32 http_list_has(str list, str token)
{
    while (list.len)
        if (str_eq_nocase(str_trim(str_cut(&list, ',')), token))
            return 1;
    return 0;
}

/* How the body is framed, RFC 9112 section 6.3. */
static err http_framing(http_response *r, u8 minor)
{
    str head = r->head, name, value;
    r->length = -1;
    r->chunked = 0;
    r->keep = minor != '0';
    while (http_next_header(&head, &name, &value)) {
        if (str_is(name, "content-length")) {
            u64 length;
            if (!str_to_uint(value, 1ull << 60, &length)) /* over any limit, and fits an i64 */
                return E_HttpLength;
            if (r->length >= 0 && r->length != (i64)length)
                return E_HttpLength;
            r->length = (i64)length;
        } else if (str_is(name, "transfer-encoding")) {
            if (minor == '0' || r->chunked || !str_eq_nocase(value, S("chunked")))
                return E_HttpTransferEncoding;
            r->chunked = 1;
        } else if (str_is(name, "connection")) {
            r->keep = r->keep && !http_list_has(value, S("close"));
        }
    }
    return r->chunked && r->length >= 0 ? E_HttpLength : E_None;
}

/* Moves n bytes of the body into w; n is within the limit. */
static void http_body_run(connection *c, writer *w, i64 n)
{
    while (n && !c->error) {
        str run = connection_take(c, n < CONNECTION_BUFFER ? (iz)n : CONNECTION_BUFFER);
        if (!run.len)
            http_fail(c, E_HttpTruncated);
        put(w, run);
        n -= run.len;
    }
}

/* chunk-size [ chunk-ext ] CRLF, RFC 9112 section 7.1; at most `max`. */
static i64 http_chunk_size(connection *c, i64 max)
{
    u64 size = 0;
    iz digits = 0;
    for (; hex_value(http_peek(c)) >= 0 && !c->error; digits++) {
        if (size >> 56 || digits == HTTP_LINE_MAX)
            http_fail(c, E_HttpChunkSize);
        size = size << 4 | (u64)hex_value(http_byte(c));
    }
    u8 next = http_peek(c);
    if (!digits || (next != '\r' && next != ';' && next != ' ' && next != '\t'))
        http_fail(c, E_HttpChunk);
    for (; http_peek(c) == ' ' || http_peek(c) == '\t'; digits++) { /* some servers pad */
        http_byte(c);
        if (digits >= HTTP_LINE_MAX)
            http_fail(c, E_HttpLineTooLong);
    }
    if (http_peek(c) != '\r' && http_peek(c) != ';')
        http_fail(c, E_HttpChunk);
    http_line_rest(c, 0, digits);
    if ((i64)size > max)
        http_fail(c, E_HttpBodyTooLarge);
    return c->error ? 0 : (i64)size;
}

static void http_chunks(connection *c, writer *w)
{
    for (;;) {
        i64 size = http_chunk_size(c, w->cap - w->len);
        if (!size)
            break;
        http_body_run(c, w, size);
        http_expect(c, S("\r\n"), E_HttpChunk);
    }
    http_header_lines(c, 0);
}

static void http_until_close(connection *c, writer *w)
{
    for (;;) {
        str run = connection_take(c, CONNECTION_BUFFER);
        if (!run.len)
            return;
        put(w, run);
        if (w->error)
            http_fail(c, E_HttpBodyTooLarge);
    }
}

static void http_body(connection *c, arena *a, iz max, http_response *r)
{
    r->body = S("");
    if (r->status == 204 || r->status == 304)
        return;
    if (r->length > max)
        http_fail(c, E_HttpBodyTooLarge);
    if (c->error)
        return;
    writer w = arena_writer(a, r->length >= 0 ? (iz)r->length : max);
    if (w.cap < (r->length >= 0 ? r->length : 0))
        http_fail(c, E_OutOfMemory);
    else if (r->chunked)
        http_chunks(c, &w);
    else if (r->length >= 0)
        http_body_run(c, &w, r->length);
    else
        http_until_close(c, &w);
    r->body = arena_keep(a, &w);
}

/* Reads one whole answer, RFC 9112: 1xx answers are passed over, the body is read to its end, into
 * the arena, at most `max` bytes of it. Where neither length nor chunks frame the body it goes on
 * to the end of the stream if `until_close` allows that. After an error r->head holds what had
 * been understood, and the connection is closed; else it is kept if the answer says so. */
static err http_read(connection *c, arena *a, iz max, b32 until_close, http_response *r)
{
    u8 minor = 0;
    *r = (http_response){0};
    writer head = arena_writer(a, HTTP_HEAD_MAX);
    for (iz n = 0; r->status < 200 && !c->error; n++) {
        writer_cut(&head, 0);
        if (n > HTTP_INTERIM_MAX || r->status == 101)
            http_fail(c, E_HttpInterim);
        minor = http_status_line(c, r);
        http_header_lines(c, &head);
    }
    str lines = arena_keep(a, &head);
    if (!c->error) {
        r->head = lines;
        http_fail(c, http_framing(r, minor));
    }
    if (!c->error && !until_close && r->length < 0 && !r->chunked)
        if (r->status != 204 && r->status != 304)
            http_fail(c, E_HttpNoLength);
    http_body(c, a, max, r);
    b32 framed = r->chunked || r->length >= 0 || r->status == 204 || r->status == 304;
    if (c->error || !r->keep || !framed || c->at < c->len)
        connection_close(c);
    wipe(c->buffer, c->len);
    c->at = c->len = 0;
    return c->error;
}

/* A base URL. The path has no slash at its end. */
typedef struct {
    origin origin;
    str path;
} url;

/* Takes [host:port] where that stands alone, else http:// or https:// with a host, a port unless
 * it is the scheme's own, and a path. User information, query and fragment are refused. */
static err url_parse(str text, b32 bare, url *u)
{
    str rest = text;
    *u = (url){0};
    if (!str_is_visible(text, URL_MAX))
        return E_UrlMalformed;
    u->origin.https = str_starts(text, S("https://"));
    if (u->origin.https)
        rest = str_from(text, 8);
    else if (str_starts(text, S("http://")))
        rest = str_from(text, 7);
    else if (!bare)
        return E_UrlMalformed;
    iz slash = str_find(rest, '/');
    str place = slash < 0 ? rest : str_span(rest, 0, slash);
    u->path = slash < 0 ? S("") : str_from(rest, slash);
    while (str_ends(u->path, S("/")))
        u->path.len--;
    iz bracket = str_find(place, ']');
    iz colon = str_find(str_from(place, bracket + 1), ':');
    u->origin.host = colon < 0 ? place : str_span(place, 0, bracket + 1 + colon);
    u->origin.port = u->origin.https ? 443 : 80;
    u64 port;
    if (colon >= 0) {
        if (!str_to_uint(str_from(place, bracket + 2 + colon), 65535, &port) || !port)
            return E_UrlMalformed;
        u->origin.port = (u16)port;
    }
    for (iz i = 0; i < u->origin.host.len; i++)
        if (!is_alnum(u->origin.host.ptr[i]) && !is_one_of(u->origin.host.ptr[i], "-._[:]"))
            return E_UrlMalformed;
    if (str_find(u->path, '?') >= 0 || str_find(u->path, '#') >= 0 || !u->origin.host.len)
        return E_UrlMalformed;
    return E_None;
}

/* What becomes part of a request must be visible ASCII, blanks apart where they are allowed: the
 * last line of defence behind the checks of each value. */
static void http_put(writer *w, str s, b32 blanks)
{
    for (iz i = 0; i < s.len && !w->error; i++)
        if (s.ptr[i] >= 0x7f || s.ptr[i] < ' ' || (s.ptr[i] == ' ' && !blanks))
            w->error = E_HttpRequestUnsafe;
    put(w, s);
}

/* Percent-encoding of everything but the unreserved characters, RFC 3986 section 2.1 */
static void http_put_encoded(writer *w, str s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (iz i = 0; i < s.len; i++) {
        u8 c = s.ptr[i];
        if (is_alnum(c) || is_one_of(c, "-._~")) {
            put_byte(w, c);
        } else {
            u8 code[] = {'%', (u8)hex[c >> 4], (u8)hex[c & 15]};
            put(w, (str){code, 3});
        }
    }
}

/* A request is written as: http_put_start, the rest of the target, http_put_origin, headers,
 * http_put_end. The base's path and the target meet in one slash. */
static void http_put_start(writer *w, str method, const url *base)
{
    put(w, method);
    put_byte(w, ' ');
    http_put(w, base->path, 0);
    put_byte(w, '/');
}

static void http_put_header(writer *w, str name, str value)
{
    put(w, name);
    put_text(w, ": ");
    http_put(w, value, 1);
    put_text(w, "\r\n");
}

/* Ends the request line; an empty User-Agent would be refused by TfL. */
static void http_put_origin(writer *w, const origin *to)
{
    put_text(w, " HTTP/1.1\r\nHost: ");
    http_put(w, to->host, 0);
    if (to->port != (to->https ? 443 : 80)) {
        put_byte(w, ':');
        put_uint(w, to->port, 1);
    }
    put_text(w, "\r\nUser-Agent: london-travel/1.0\r\n");
}

/* Ends the head and adds a JSON body; a request without one ends here too, with body {0, 0}. */
static void http_put_end(writer *w, str body)
{
    if (body.ptr) {
        put_text(w, "Content-Type: application/json\r\nContent-Length: ");
        put_uint(w, (u64)body.len, 1);
        put_text(w, "\r\n");
    }
    put_text(w, "\r\n");
    put(w, body);
}

/* delay-seconds of Retry-After, RFC 9110 section 10.2.3, in ns, or else `otherwise`. A date is not
 * understood and counts as too late. */
static i64 http_retry_after(const http_response *r, i64 otherwise)
{
    str value = http_header(r, S("retry-after"));
    u64 seconds = 3600;
    if (!value.ptr)
        return otherwise;
    str_to_uint(value, 3600, &seconds);
    return (i64)seconds * SECOND;
}

static b32 http_is_busy(i32 status)
{
    return status == 408 || status == 429 || status >= 500;
}

/* A GET that is sent again, at most twice and inside the deadline: when no connection comes about,
 * when a kept one turns out dead or silent before the first byte, and on 408, 429 and 5xx, after a
 * pause of RETRY_PAUSE, then three times it, or as Retry-After says. A dead kept connection needs
 * no pause. E_HttpBusy when the last answer was one of those; *tries counts the requests. */
static err http_get(connection *c, str request, i64 deadline, arena *a, http_response *r, iz *tries)
{
    u8 *mark = a->at;
    for (i64 pause = RETRY_PAUSE;; pause *= 3) {
        i64 wait = pause;
        arena_rewind(a, mark); /* what the try before received */
        ++*tries;
        err error = connection_open(c, deadline);
        b32 again = error && error != E_HttpsMissing && error != E_HostUnknown;
        if (!error) {
            connection_send(c, request);
            error = http_read(c, a, UPSTREAM_BODY_MAX, 1, r);
            again = error && c->kept && !c->heard;
            wait = again ? 0 : wait;
        }
        if (!error && http_is_busy(r->status)) {
            again = 1;
            error = E_HttpBusy;
            wait = http_retry_after(r, wait);
        }
        i64 until = os_monotonic() + wait;
        if (!again || *tries == HTTP_TRIES || until >= deadline)
            return error;
        os_sleep(until);
    }
}

/* ---------------------------------------------------------------------------------------------
 * 12 Lambda Runtime API
 *
 * AWS's "Using the Lambda runtime API for custom runtimes": GET next gives an event, its response
 * or error is POSTed under its request id, and so on, over one kept connection. The sandbox may be
 * frozen for hours inside any of these calls, so none has a time-out; Lambda itself ends a
 * function that hangs. A connection found broken is replaced once for a POST and a few times for
 * `next`. init/error has no use here: nothing that could fail comes before the first `next`.
 *
 * Log lines are one write each, as text or as one JSON object, filtered by level. They hold names
 * of errors and what the program itself decided; of texts from outside only ids and names, cut to
 * visible ASCII; never a token, a key, a user id, a query or a body.
 * ------------------------------------------------------------------------------------------ */

typedef enum { LOG_TRACE, LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_FATAL } log_level;

static const char log_levels[][8] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"};

typedef struct {
    b32 as_json;
    log_level least;
    str request_id; /* of the present invocation; empty between two of them */
} logger;

/* The name of an error; its sentence is left in *sentence. */
static str err_name(err error, str *sentence)
{
    static const char rows[] =
#define X(name, text) #name "|" text "\n"
        ERRORS(X)
#undef X
        ;
    *sentence = text_row(S(rows), (i32)error);
    return str_cut(sentence, '|');
}

static void log_init(logger *log, const char *const *env)
{
    str level = env_get(env, S("AWS_LAMBDA_LOG_LEVEL"));
    log->as_json = str_eq_nocase(env_get(env, S("AWS_LAMBDA_LOG_FORMAT")), S("JSON"));
    log->least = LOG_INFO;
    for (i32 i = 0; i < (i32)countof(log_levels); i++)
        if (str_eq_nocase(level, T(log_levels[i])))
            log->least = (log_level)i;
}

/* A name from outside, made harmless: visible ASCII, at most LOG_WORD_MAX of it. */
static void log_put_word(writer *w, str s)
{
    for (iz i = 0; i < s.len && i < LOG_WORD_MAX; i++) {
        u8 c = s.ptr[i];
        put_byte(w, c > ' ' && c < 0x7f && c != '"' && c != '\\' ? c : '?');
    }
}

/* One line: what was being done, what of it (a name from outside, or ""), and the error. */
static void log_line(const logger *log, log_level level, str what, str which, err error)
{
    u8 buf[LOG_LINE_MAX], detail[256];
    if (level < log->least)
        return;
    writer message = writer_of(detail, countof(detail));
    put(&message, what);
    if (which.len) {
        put_byte(&message, ' ');
        log_put_word(&message, which);
    }
    writer w = writer_of(buf, countof(buf));
    str sentence, name = err_name(error, &sentence);
    if (log->as_json) {
        put_text(&w, "{\"timestamp\":\"");
        put_time(&w, os_unix_ms());
        put_byte(&w, '"');
        json_put_member(&w, "level", T(log_levels[level]));
        if (log->request_id.len)
            json_put_member(&w, "requestId", log->request_id);
        json_put_member(&w, "message", written(&message));
        if (error) {
            json_put_member(&w, "errorType", name);
            json_put_member(&w, "errorMessage", sentence);
        }
        put_text(&w, "}\n");
    } else {
        str part[] = {log->request_id.len ? log->request_id : S("-"), T(log_levels[level]),
                      written(&message), name, sentence};
        put_time(&w, os_unix_ms());
        for (iz i = 0; i < (error ? 5 : 3); i++) {
            put_byte(&w, '\t');
            put(&w, part[i]);
        }
        put_byte(&w, '\n');
    }
    invariant(!w.error); /* id 256 (doubled at most), message 256, error 200, the rest under 120 */
    os_log(written(&w));
}

/* A service, or Lambda itself, did not answer as it should. */
static void log_status(const logger *log, str what, i32 status, iz tries, err error)
{
    u8 buf[64];
    writer w = writer_of(buf, countof(buf));
    put_text(&w, "status=");
    put_uint(&w, (u64)status, 1);
    put_text(&w, ",tries=");
    put_uint(&w, (u64)tries, 1);
    log_line(log, LOG_ERROR, what, written(&w), error);
}

/* What `next` gave. The slices live in the invocation's arena. */
typedef struct {
    str request_id;
    str invocation_id; /* to be echoed; a null pointer if there is none */
    str trace_id;
    i64 deadline; /* for everything that is done for this event */
    str event;
    err error; /* why the event cannot be taken, although it has a request id to answer to */
} invocation;

typedef struct {
    connection connection;
    url base;
    logger *log;
} lambda;

static err lambda_init(lambda *l, const char *const *env)
{
    str place = env_get(env, S("AWS_LAMBDA_RUNTIME_API"));
    if (url_parse(place, 1, &l->base) || l->base.origin.https)
        return E_RuntimeApiUrl;
    connection_init(&l->connection, l->base.origin);
    return E_None;
}

/* Sends a GET. Its answer is read later, so that what must be set up is set up meanwhile. */
static err lambda_ask(lambda *l, const char *what)
{
    u8 buf[HTTP_REQUEST_MAX];
    writer w = writer_of(buf, countof(buf));
    http_put_start(&w, S("GET"), &l->base);
    put_text(&w, "2018-06-01/runtime/");
    put_text(&w, what);
    http_put_origin(&w, &l->base.origin);
    http_put_end(&w, (str){0, 0});
    if (!w.error && !connection_open(&l->connection, FOREVER))
        connection_send(&l->connection, written(&w));
    return w.error ? w.error : l->connection.error;
}

/* Where the program was started for a snapshot, this call ends when a copy of it has been restored
 * from there. Nothing random has been drawn before it, and no connection outlives it. */
static err lambda_restore(lambda *l, arena *a)
{
    http_response r = {0};
    err error = lambda_ask(l, "restore/next");
    if (!error)
        error = http_read(&l->connection, a, LAMBDA_ANSWER_MAX, 0, &r);
    connection_close(&l->connection);
    return error ? error : r.status == 200 ? E_None : E_RuntimeApiStatus;
}

/* The smaller of Alexa's and Lambda's time, as a point on the monotonic clock. A deadline that is
 * missing or not a number leaves Alexa's alone. */
static i64 lambda_deadline(str header)
{
    u64 unix_ms;
    i64 budget = INVOCATION_BUDGET;
    if (str_to_uint(header, 1ull << 43, &unix_ms)) /* the year 2248; as ns it still fits an i64 */
        budget = earlier(budget, ((i64)unix_ms - os_unix_ms()) * MS - LAMBDA_MARGIN);
    return os_monotonic() + (budget > 0 ? budget : 0);
}

/* Receives the answer to lambda_ask. E_RuntimeApiStatus for 403 and 500 and whatever else is not
 * 200, E_RequestIdInvalid for an event that nobody can answer to. Trouble with an event that has
 * an id is left in i->error, to be reported under that id. */
static err lambda_receive(lambda *l, arena *a, invocation *i)
{
    http_response r;
    *i = (invocation){0};
    err error = http_read(&l->connection, a, EVENT_MAX, 0, &r);
    if (error && !r.head.len)
        return error;
    if (r.status != 200)
        return E_RuntimeApiStatus;
    str id = http_header(&r, S("lambda-runtime-aws-request-id"));
    if (!str_is_visible(id, LAMBDA_ID_MAX))
        return E_RequestIdInvalid;
    i->request_id = id;
    i->event = r.body;
    i->error = error;
    i->deadline = lambda_deadline(http_header(&r, S("lambda-runtime-deadline-ms")));
    i->trace_id = http_header(&r, S("lambda-runtime-trace-id"));
    i->invocation_id = http_header(&r, S("lambda-runtime-invocation-id"));
    l->log->request_id = id;
    if (i->trace_id.len && !str_is_visible(i->trace_id, LAMBDA_ID_MAX)) {
        log_line(l->log, LOG_WARN, S("trace id left out"), S(""), E_TraceIdInvalid);
        i->trace_id = S("");
    }
    if (i->invocation_id.len && !str_is_visible(i->invocation_id, LAMBDA_ID_MAX)) {
        i->invocation_id = S("");
        i->error = E_InvocationIdInvalid;
    }
    return E_None;
}

/* POSTs to invocation/{id}/{what}; once more over a new connection if the first one breaks. An
 * error means that the runtime should end: the connection stays broken, or status 5xx. Other
 * refusals (400, 403, 410, 413) are logged and survived. */
static err lambda_post(lambda *l, arena *a, const invocation *i, str what, err type, str body)
{
    writer w = arena_writer(a, HTTP_REQUEST_MAX + body.len);
    http_put_start(&w, S("POST"), &l->base);
    put_text(&w, "2018-06-01/runtime/invocation/");
    http_put_encoded(&w, i->request_id);
    put(&w, what);
    http_put_origin(&w, &l->base.origin);
    if (i->invocation_id.len)
        http_put_header(&w, S("Lambda-Runtime-Invocation-Id"), i->invocation_id);
    if (type) {
        put_text(&w, "Lambda-Runtime-Function-Error-Type: Function.");
        str sentence;
        put(&w, err_name(type, &sentence));
        put_text(&w, "\r\n");
    }
    http_put_end(&w, body);
    str request = arena_keep(a, &w);
    http_response r;
    iz tries = 0;
    err error = w.error;
    for (; tries < 2 && (!tries || error) && !w.error; tries++) {
        error = connection_open(&l->connection, FOREVER);
        connection_send(&l->connection, request);
        error = http_read(&l->connection, a, LAMBDA_ANSWER_MAX, 0, &r);
        if (r.status >= 200) /* has been read, and counts whatever follows it */
            error = E_None;
    }
    if (!error && r.status >= 500)
        error = E_RuntimeApiStatus;
    if (!error && (r.status < 200 || r.status > 299))
        log_status(l->log, what, r.status, tries, E_RuntimeApiStatus);
    return error;
}

static err lambda_respond(lambda *l, arena *a, const invocation *i, str body)
{
    return lambda_post(l, a, i, S("/response"), E_None, body);
}

/* Reports an invocation that has no response. The arena may be full, so the event goes first; what
 * of it is needed to answer is copied. */
static err lambda_report(lambda *l, arena *a, const invocation *i, err error)
{
    u8 ids[2 * LAMBDA_ID_MAX], buf[512];
    invocation kept = {.request_id = {ids, i->request_id.len},
                       .invocation_id = {ids + LAMBDA_ID_MAX, i->invocation_id.len}};
    copy(ids, i->request_id.ptr, i->request_id.len);
    copy(ids + LAMBDA_ID_MAX, i->invocation_id.ptr, i->invocation_id.len);
    l->log->request_id = kept.request_id;
    arena_reset(a);
    writer w = writer_of(buf, countof(buf));
    json_put_open(&w, '{');
    str sentence, name = err_name(error, &sentence);
    json_put_member(&w, "errorMessage", sentence);
    json_put_name(&w, "errorType");
    put_text(&w, "\"Function.");
    put(&w, name);
    put_text(&w, "\",\"stackTrace\":[]}");
    invariant(!w.error);
    error = lambda_post(l, a, &kept, S("/error"), error, written(&w));
    l->log->request_id = S("");
    return error;
}

/* ---------------------------------------------------------------------------------------------
 * 13 Alexa
 *
 * The "Request and Response JSON Reference" of the Alexa Skills Kit. Of a request only what the
 * skill names is decoded; unknown members, types and values are stepped over. A response is built
 * from messages in plain text: the card shows them as they are, the speech has each as a
 * paragraph, verbalised and escaped for SSML (section 15 says how words are said).
 *
 * The only session attribute is `speech`: what was last said in a session that was left open, for
 * AMAZON.RepeatIntent. It is made of the skill's own sentences, so no token or id can be in it.
 * ------------------------------------------------------------------------------------------ */

/* What is read of an event, by its path. */
enum {
    ALEXA_TYPE,
    ALEXA_INTENT,
    ALEXA_SLOT,        /* what was spoken for the slot LINE, */
    ALEXA_RESOLUTIONS, /* and what Alexa made of it */
    ALEXA_REASON,      /* of a SessionEndedRequest */
    ALEXA_ERROR,       /* of that, or of a System.ExceptionEncountered */
    ALEXA_SESSION_APP, /* application ids */
    ALEXA_CONTEXT_APP,
    ALEXA_SESSION_TOKEN, /* the user's access token for the preferences API */
    ALEXA_CONTEXT_TOKEN,
    ALEXA_SPEECH, /* the session attribute */
    ALEXA_MEMBERS,
};

static const char alexa_paths[] =
    "request.type request.intent.name request.intent.slots.LINE.value "
    "request.intent.slots.LINE.resolutions request.reason request.error.type "
    "session.application.applicationId context.System.application.applicationId "
    "session.user.accessToken context.System.user.accessToken session.attributes.speech";

typedef struct {
    str member[ALEXA_MEMBERS]; /* a null pointer for one that is absent or null */
    str slot_id, slot_name;    /* out of the resolutions */
} alexa_request;

/* One authority: {"status": {"code"}, "values": [{"value": {"name", "id"}}, ...]}. Of the values
 * the first one counts, and none unless the code is ER_SUCCESS_MATCH; members come in any order. */
static b32 alexa_parse_authority(json *j, arena *a, alexa_request *r)
{
    json_walk walk, inner;
    str code = S(""), found[2] = {S(""), S("")};
    if (!json_walk_start(&walk, j, "status.code values"))
        return 0;
    for (i32 i; (i = json_walk_next(&walk, j)) >= 0;) {
        if (i == 0)
            code = json_text(j, a);
        else if (json_enter(j, JSON_ARRAY) && json_element(j)) {
            if (json_walk_start(&inner, j, "value.name value.id"))
                while ((i = json_walk_next(&inner, j)) >= 0)
                    found[i] = json_text(j, a);
            while (json_element(j))
                json_skip(j);
        }
    }
    if (!str_is(code, "ER_SUCCESS_MATCH"))
        return 0;
    r->slot_name = found[0];
    r->slot_id = found[1];
    return 1;
}

static void alexa_parse_resolutions(json *j, arena *a, alexa_request *r)
{
    json_walk walk;
    b32 matched = 0;
    if (!json_walk_start(&walk, j, "resolutionsPerAuthority"))
        return;
    while (json_walk_next(&walk, j) >= 0)
        if (json_enter(j, JSON_ARRAY))
            while (json_element(j)) {
                if (matched)
                    json_skip(j);
                else
                    matched = alexa_parse_authority(j, a, r);
            }
}

/* Decodes an event. Errors: those of JSON; E_NotAnAlexaRequest where there is no request with a
 * type. */
static err alexa_parse(str event, arena *a, alexa_request *r)
{
    json j;
    json_walk walk;
    *r = (alexa_request){0};
    json_start(&j, event);
    if (json_walk_start(&walk, &j, alexa_paths))
        for (i32 i; (i = json_walk_next(&walk, &j)) >= 0;) {
            if (i == ALEXA_RESOLUTIONS)
                alexa_parse_resolutions(&j, a, r);
            else
                r->member[i] = json_text(&j, a);
        }
    err error = json_finish(&j);
    return error ? error : r->member[ALEXA_TYPE].len ? E_None : E_NotAnAlexaRequest;
}

/* The access token: the session's, or else the context's. */
static str alexa_token(const alexa_request *r)
{
    str token = r->member[ALEXA_SESSION_TOKEN];
    return token.len ? token : r->member[ALEXA_CONTEXT_TOKEN];
}

/* b64token, RFC 6750 section 2.1: 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=" */
static b32 alexa_token_valid(str token)
{
    iz n = token.len;
    while (n && token.ptr[n - 1] == '=')
        n--;
    for (iz i = 0; i < n; i++)
        if (!is_alnum(token.ptr[i]) && !is_one_of(token.ptr[i], "-._~+/"))
            return 0;
    return n > 0 && token.len <= ALEXA_TOKEN_MAX;
}

/* Is the request for the skill of that id? Each application id that is present must be it, and
 * one must be. */
static b32 alexa_is_for(const alexa_request *r, str skill_id)
{
    b32 any = 0;
    for (i32 i = ALEXA_SESSION_APP; i <= ALEXA_CONTEXT_APP; i++) {
        any |= r->member[i].ptr != 0;
        if (r->member[i].ptr && !str_eq(r->member[i], skill_id))
            return 0;
    }
    return any && skill_id.len;
}

/* ---------------------------------------------------------------------------------------------
 * 14 TfL and preferences
 *
 * TfL's Unified API tells the state of lines and the disruption of whole modes; the preferences
 * API of London Travel tells a user's favourite lines. Both are asked by GET and answer in JSON,
 * of which only the members named here are decoded. A failure is told by its name, never by the
 * body, which may repeat the app_key.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    connection connection;
    url base;
    err error; /* of its configuration */
} service;

typedef struct {
    service tfl, preferences;
    str app_id, app_key;
    str skill_id;
    b32 verify;
    logger log;
} skill;

/* What one invocation carries along. */
typedef struct {
    skill *skill;
    arena *arena;
    i64 deadline;
    i64 now; /* seconds since 1970 */
} task;

static void service_init(service *s, str base)
{
    s->error = url_parse(base, 0, &s->base);
    address to;
    if (!s->error && !s->base.origin.https)
        if (address_of_host(s->base.origin.host, s->base.origin.port, &to) ||
            !address_is_loopback(&to))
            s->error = E_UrlInsecure;
    connection_init(&s->connection, s->base.origin);
}

static void skill_init(skill *s, const char *const *env)
{
    str tfl = env_get(env, S("Skill__TflApiUrl"));
    str preferences = env_get(env, S("Skill__SkillApiUrl"));
    str verify = env_get(env, S("Skill__VerifySkillId"));
    service_init(&s->tfl, tfl.len ? tfl : S("https://api.tfl.gov.uk/"));
    service_init(&s->preferences, preferences);
    if (!preferences.len)
        s->preferences.error = E_PreferencesNotSet;
    s->app_id = env_get(env, S("Skill__TflApplicationId"));
    s->app_key = env_get(env, S("Skill__TflApplicationKey"));
    s->skill_id = env_get(env, S("Skill__SkillId"));
    s->verify = verify.len ? !str_eq_nocase(verify, S("false")) : s->skill_id.len > 0;
    log_init(&s->log, env);
}

/* Sends the request that w holds up to its last header. Any status but 200 is E_HttpStatus; which
 * one it was stands in the response, whose head and body are gone then, and in the log. */
static err service_get(task *t, service *s, writer *w, str what, http_response *r)
{
    iz tries = 0;
    http_put_end(w, (str){0, 0});
    err error = w->error;
    str request = arena_keep(t->arena, w);
    u8 *mark = t->arena->at;
    *r = (http_response){0};
    if (!error)
        error = http_get(&s->connection, request, t->deadline, t->arena, r, &tries);
    if (!error && r->status != 200)
        error = E_HttpStatus;
    if (!error)
        return E_None;
    log_status(&t->skill->log, what, r->status, tries, error);
    arena_rewind(t->arena, mark);
    return error;
}

/* An answer, or a base URL, is not what it should be. */
static err service_garbled(task *t, str what, err error)
{
    log_line(&t->skill->log, LOG_ERROR, what, S(""), error);
    return error;
}

/* One status of a line, as far as it is needed. */
typedef struct line_status {
    struct line_status *next;
    i32 severity; /* of TfL's table, or -1 */
    str description, reason;
    b32 now; /* it applies at this time */
} line_status;

typedef struct line {
    struct line *next;
    str id, name;
    line_status *statuses;
} line;

/* A point in time in ISO 8601, "2026-11-23T04:29:00Z", with or without a fraction and an offset
 * from UTC, in seconds since 1970; -1 if it is not one. */
static i64 time_parse(str text)
{
    reader r = reader_of(text);
    i64 part[6];
    static const char before[] = {0, '-', '-', 'T', ':', ':'};
    for (iz i = 0; i < 6; i++) {
        if (before[i] && read_byte(&r) != before[i])
            return -1;
        part[i] = read_decimal(&r, i ? 2 : 4);
    }
    i64 day = days_of_date(part[0], part[1], part[2]);
    if (r.error || part[0] < 1970 || part[1] < 1 || part[1] > 12 || part[2] < 1 || part[3] > 23 ||
        part[4] > 59 || part[5] > 60 || day >= days_of_date(part[0], part[1] + 1, 1))
        return -1;
    i64 time = ((day * 24 + part[3]) * 60 + part[4]) * 60 + part[5];
    if (reader_peek(&r) == '.')
        do
            read_byte(&r);
        while (is_digit(reader_peek(&r)));
    u8 zone = reader_peek(&r);
    if (zone == '+' || zone == '-') {
        read_byte(&r);
        i64 minutes = read_decimal(&r, 2) * 60;
        if (reader_peek(&r) == ':')
            read_byte(&r);
        minutes += read_decimal(&r, 2);
        if (minutes >= 24 * 60)
            return -1;
        time -= (zone == '+' ? minutes : -minutes) * 60;
    } else if (zone == 'Z') {
        read_byte(&r);
    }
    return r.error || reader_left(&r) ? -1 : time;
}

/* validityPeriods: is one of them now? A list that is absent or empty leaves the status valid. */
static b32 tfl_parse_periods(json *j, task *t)
{
    b32 any = 0, applies = 0;
    if (!json_enter(j, JSON_ARRAY))
        return 1;
    while (json_element(j)) {
        json_walk walk;
        i64 from = -1, to = -1;
        any = 1;
        if (!json_walk_start(&walk, j, "fromDate toDate isNow"))
            continue;
        for (i32 i; (i = json_walk_next(&walk, j)) >= 0;) {
            if (i == 2)
                applies |= json_is_true(j);
            else
                *(i ? &to : &from) = time_parse(json_text(j, t->arena));
        }
        applies |= from >= 0 && from <= t->now && t->now <= to;
    }
    return applies || !any;
}

static line_status *tfl_parse_status(json *j, task *t)
{
    json_walk walk;
    line_status *s = arena_new(t->arena, line_status, 1);
    if (!s)
        json_fail(j, E_OutOfMemory);
    if (!json_walk_start(&walk, j,
                         "statusSeverity statusSeverityDescription reason validityPeriods"))
        return 0;
    s->severity = -1;
    s->now = 1;
    for (i32 i; (i = json_walk_next(&walk, j)) >= 0;) {
        if (i == 0)
            s->severity = json_small(j, 1000);
        else if (i == 1)
            s->description = json_text(j, t->arena);
        else if (i == 2)
            s->reason = str_trim(json_text(j, t->arena));
        else
            s->now = tfl_parse_periods(j, t);
    }
    return s;
}

static line *tfl_parse_line(json *j, task *t)
{
    json_walk walk;
    line *l = arena_new(t->arena, line, 1);
    if (!l)
        json_fail(j, E_OutOfMemory);
    if (!json_walk_start(&walk, j, "id name lineStatuses"))
        return 0;
    for (i32 i; (i = json_walk_next(&walk, j)) >= 0;) {
        if (i == 0) {
            l->id = json_text(j, t->arena);
        } else if (i == 1) {
            l->name = str_trim(json_text(j, t->arena));
        } else if (json_enter(j, JSON_ARRAY)) {
            line_status **tail = &l->statuses;
            while (json_element(j))
                if ((*tail = tfl_parse_status(j, t)))
                    tail = &(*tail)->next;
        }
    }
    return l;
}

/* Appends the lines of an answer to the list. E_JsonShape unless it is an array of lines, one at
 * least, that have a name and an id. */
static err tfl_parse_lines(str body, task *t, line **list)
{
    json j;
    while (*list)
        list = &(*list)->next;
    json_start(&j, body);
    b32 array = json_enter(&j, JSON_ARRAY), good = 0;
    while (array && json_element(&j)) {
        line *l = tfl_parse_line(&j, t);
        good = l && l->name.len && l->id.len;
        if (!good)
            json_fail(&j, E_JsonShape);
        if (l) {
            *list = l;
            list = &l->next;
        }
    }
    err error = json_finish(&j);
    return error ? error : array && good ? E_None : E_JsonShape;
}

static writer tfl_request(task *t)
{
    writer w = arena_writer(t->arena, HTTP_REQUEST_MAX);
    http_put_start(&w, S("GET"), &t->skill->tfl.base);
    return w;
}

/* Ends the request line with the credentials, and the head but for its last line. */
static void tfl_put_query(task *t, writer *w)
{
    const skill *s = t->skill;
    if (s->app_id.len) {
        put_text(w, "?app_id=");
        http_put_encoded(w, s->app_id);
    }
    if (s->app_key.len) {
        put(w, s->app_id.len ? S("&app_key=") : S("?app_key="));
        http_put_encoded(w, s->app_key);
    }
    http_put_origin(w, &s->tfl.base.origin);
    http_put_header(w, S("Accept"), S("application/json"));
}

/* Characters of a TfL line id: what may stand in a request's path. */
static b32 line_id_valid(str id)
{
    for (iz i = 0; i < id.len; i++)
        if (is_upper(id.ptr[i]) || (!is_alnum(id.ptr[i]) && id.ptr[i] != '-'))
            return 0;
    return id.len > 0 && id.len <= LINE_ID_MAX;
}

/* GET /Line/{ids}/Status for up to LINES_PER_CALL valid ids; appends what TfL says to *lines.
 * E_LineUnknown when TfL answers 404. */
static err tfl_status(task *t, const str *ids, iz count, line **lines)
{
    http_response r;
    invariant(count > 0 && count <= LINES_PER_CALL);
    if (t->skill->tfl.error)
        return service_garbled(t, S("Skill__TflApiUrl"), t->skill->tfl.error);
    writer w = tfl_request(t);
    put_text(&w, "Line/");
    for (iz i = 0; i < count; i++) {
        invariant(line_id_valid(ids[i]));
        put(&w, i ? S("%2C") : S(""));
        put(&w, ids[i]);
    }
    put_text(&w, "/Status");
    tfl_put_query(t, &w);
    err error = service_get(t, &t->skill->tfl, &w, S("TfL status"), &r);
    if (error)
        return error == E_HttpStatus && r.status == 404 ? E_LineUnknown : error;
    error = tfl_parse_lines(r.body, t, lines);
    return error ? service_garbled(t, S("TfL status answer"), error) : E_None;
}

/* A list of messages in plain text; more than it holds could not be spoken either. */
typedef struct {
    iz count;
    str text[MESSAGES_MAX];
} messages;

/* Puts a message at a place in the list. */
static void messages_insert(messages *m, iz at, str text)
{
    if (m->count == MESSAGES_MAX)
        return;
    for (iz i = m->count++; i > at; i--)
        m->text[i] = m->text[i - 1];
    m->text[at] = text;
}

/* The text with each run of white space as one blank and none at its ends; a run of full stops is
 * one. With `stop` there is a full stop behind it unless it ends a sentence already. Control
 * characters, which SSML and cards cannot hold, count as white space. */
static str text_tidy(arena *a, str raw, b32 stop)
{
    writer w = arena_writer(a, raw.len + 1);
    for (iz i = 0; i < raw.len; i++) {
        u8 c = raw.ptr[i] <= ' ' || raw.ptr[i] == 0x7f ? ' ' : raw.ptr[i];
        u8 last = str_at(written(&w), w.len - 1);
        if ((c == ' ' && (last == ' ' || !last)) || (c == '.' && last == '.'))
            continue;
        put_byte(&w, c);
    }
    if (w.len && w.buf[w.len - 1] == ' ')
        writer_cut(&w, w.len - 1);
    u8 last = str_at(written(&w), w.len - 1);
    if (stop && last && !is_one_of(last, ".!?"))
        put_byte(&w, '.');
    return arena_keep(a, &w);
}

/* GET /Line/Mode/.../Disruption: each distinct description once, first spelling kept, in
 * alphabetical order without case. */
static err tfl_disruption(task *t, messages *m)
{
    http_response r;
    json j;
    if (t->skill->tfl.error)
        return service_garbled(t, S("Skill__TflApiUrl"), t->skill->tfl.error);
    writer w = tfl_request(t);
    put_text(&w, "Line/Mode/dlr%2Celizabeth-line%2Coverground%2Ctube/Disruption");
    tfl_put_query(t, &w);
    err error = service_get(t, &t->skill->tfl, &w, S("TfL disruption"), &r);
    if (error)
        return error;
    json_start(&j, r.body);
    b32 array = json_enter(&j, JSON_ARRAY);
    while (array && json_element(&j)) {
        json_walk walk;
        if (!json_walk_start(&walk, &j, "description"))
            continue;
        while (json_walk_next(&walk, &j) >= 0) {
            str text = text_tidy(t->arena, json_text(&j, t->arena), 0);
            iz at = 0;
            while (at < m->count && str_order_nocase(m->text[at], text) < 0)
                at++;
            if (text.len && !(at < m->count && str_eq_nocase(m->text[at], text)))
                messages_insert(m, at, text);
        }
    }
    for (iz i = 0; i < m->count; i++)
        m->text[i] = text_tidy(t->arena, m->text[i], 1);
    error = json_finish(&j);
    if (!error && !array)
        error = E_JsonShape;
    return error ? service_garbled(t, S("TfL disruption answer"), error) : E_None;
}

/* A set of line ids in the order of arrival. */
typedef struct {
    iz count;
    str id[FAVOURITES_MAX];
} line_ids;

static void line_ids_add(line_ids *set, str id)
{
    for (iz i = 0; i < set->count; i++)
        if (str_eq(set->id[i], id))
            return;
    if (set->count < FAVOURITES_MAX)
        set->id[set->count++] = id;
}

/* Adds a line, or the lines that an id of old stands for today. */
static void line_ids_add_today(line_ids *set, str id)
{
    str today = id;
    if (str_is(id, "tfl-rail"))
        today = S("elizabeth");
    if (str_is(id, "london-overground"))
        today = S("liberty lioness mildmay suffragette weaver windrush");
    while (today.len)
        line_ids_add(set, str_cut(&today, ' '));
}

/* GET /api/preferences with the user's token: the ids of the favourite lines. Ids that could not
 * stand in a request are logged and left out. E_AccessTokenRefused for 401 and 403. */
static err preferences_get(task *t, str token, line_ids *favourites)
{
    http_response r;
    json j;
    service *s = &t->skill->preferences;
    json_walk walk;
    b32 listed = 0;
    err odd = E_None;
    if (s->error)
        return service_garbled(t, S("Skill__SkillApiUrl"), s->error);
    writer w = arena_writer(t->arena, HTTP_REQUEST_MAX);
    http_put_start(&w, S("GET"), &s->base);
    put_text(&w, "api/preferences");
    http_put_origin(&w, &s->base.origin);
    http_put_header(&w, S("Accept"), S("application/json"));
    put_text(&w, "Authorization: Bearer ");
    http_put(&w, token, 0);
    put_text(&w, "\r\n");
    err error = service_get(t, s, &w, S("preferences"), &r);
    if (error)
        return r.status == 401 || r.status == 403 ? E_AccessTokenRefused : error;
    json_start(&j, r.body);
    if (json_walk_start(&walk, &j, "favoriteLines"))
        while (json_walk_next(&walk, &j) >= 0)
            for (listed = json_enter(&j, JSON_ARRAY); listed && json_element(&j);) {
                str id = json_text(&j, t->arena);
                if (line_id_valid(id))
                    line_ids_add_today(favourites, id);
                else
                    odd = E_LineIdInvalid;
            }
    if (odd)
        log_line(&t->skill->log, LOG_WARN, S("favourite left out"), S(""), odd);
    error = json_finish(&j);
    if (!error && !listed)
        error = E_JsonShape;
    return error ? service_garbled(t, S("preferences answer"), error) : E_None;
}

/* ---------------------------------------------------------------------------------------------
 * 15 speech and intents
 *
 * An answer is a list of messages in plain text, as a card shows them. Speech is the same text
 * verbalised: abbreviations as they are said, "and" for "&". A message about a line says what is
 * wrong in a sentence that names the line once, then gives TfL's reasons, the worst first.
 *
 * Words are runs of letters and digits. "St" is Street behind a word with a capital (Liverpool St,
 * High St Kensington) unless the name of a saint follows it (King's Cross St Pancras).
 * ------------------------------------------------------------------------------------------ */

/* The lines, one a row: TfL's id, its name, and then what people call it, folded as line_fold does.
 * The last row is no line but the six of London Overground together. */
static const char line_table[] =
    "bakerloo|Bakerloo|bakerloo\n"
    "central|Central|central\n"
    "circle|Circle|circle\n"
    "district|District|district\n"
    "hammersmith-city|Hammersmith & City|hammersmith and city|hammersmith city|hammersmith|h and c"
    "|h c\n"
    "jubilee|Jubilee|jubilee\n"
    "metropolitan|Metropolitan|metropolitan|met\n"
    "northern|Northern|northern\n"
    "piccadilly|Piccadilly|piccadilly\n"
    "victoria|Victoria|victoria\n"
    "waterloo-city|Waterloo & City|waterloo and city|waterloo city|waterloo|city|drain|w and c\n"
    "dlr|DLR|dlr|d l r|docklands light railway|docklands light rail|docklands railway|docklands\n"
    "elizabeth|Elizabeth line|elizabeth|crossrail|cross rail|liz|lizzie|lizzy|tfl rail\n"
    "liberty|Liberty|liberty\n"
    "lioness|Lioness|lioness\n"
    "mildmay|Mildmay|mildmay\n"
    "suffragette|Suffragette|suffragette\n"
    "weaver|Weaver|weaver\n"
    "windrush|Windrush|windrush\n"
    "london-overground|London Overground|london overground|overground\n";

/* TfL's severities in the order of their numbers: how bad each is, as a letter, and what is said,
 * with % for the line. A higher letter is worse; A is no disruption and B a number that is not in
 * the table. The order: no trains at all; parts without trains; long waits; other ways round;
 * restrictions; news. */
static const char severities[] = "DThere is a special service on %.\n"
                                 "T% is closed.\n"
                                 "R% is suspended.\n"
                                 "P% is part suspended.\n"
                                 "QThere is a planned closure on %.\n"
                                 "NThere is a part closure on %.\n"
                                 "MThere are severe delays on %.\n"
                                 "JThere is a reduced service on %.\n"
                                 "KThere is a bus service in place of trains on %.\n"
                                 "IThere are minor delays on %.\n"
                                 "AThere is a good service on %.\n"
                                 "O% is part closed.\n"
                                 "GThere are stations with exit only on %.\n"
                                 "FThere is no step free access on %.\n"
                                 "HThere is a change of frequency on %.\n"
                                 "L% is diverted.\n"
                                 "S% is not running.\n"
                                 "EThere are issues reported on %.\n"
                                 "AThere are no issues on %.\n"
                                 "CThere is information about %.\n"
                                 "UThe service on % is closed.\n";

enum { SEVERITY_COUNT = 21, SEVERITY_GOOD = 10, SEVERITY_INFORMATION = 19 };

/* Folds a text for comparison: lower case, "&" as "and", dots and apostrophes left out, words apart
 * by one blank. */
static str text_fold(writer *w, str text)
{
    for (iz i = 0; i < text.len; i++) {
        u8 c = to_lower(text.ptr[i]), last = str_at(written(w), w->len - 1);
        b32 apart = last && last != ' ';
        if (c == '&')
            put(w, apart ? S(" and ") : S("and "));
        else if (is_alnum(c) || c >= 0x80)
            put_byte(w, c);
        else if (c < ' ' && !is_space(c))
            put_byte(w, '?');
        else if (apart && !is_one_of(c, ".'"))
            put_byte(w, ' ');
    }
    return w->error ? S("") : str_trim(written(w));
}

/* Folds what was said to the form of the table: without "the" in front and "line" behind. */
static str line_fold(writer *w, str said)
{
    str folded = text_fold(w, said);
    while (str_starts(folded, S("the ")))
        folded = str_from(folded, 4);
    while (str_ends(folded, S(" line")))
        folded.len -= 5;
    return folded;
}

/* A line of the table. */
typedef struct {
    str id, name; /* null pointers when there is none */
} known_line;

/* The line that is meant by what was said. */
static known_line line_find(str said)
{
    u8 buf[64];
    writer w = writer_of(buf, countof(buf));
    str folded = line_fold(&w, said), rows = S(line_table);
    while (folded.len && rows.len) {
        str row = str_cut(&rows, '\n');
        known_line found;
        found.id = str_cut(&row, '|');
        found.name = str_cut(&row, '|');
        while (row.len)
            if (str_eq(str_cut(&row, '|'), folded))
                return found;
    }
    return (known_line){0};
}

static b32 is_word(str text, iz i)
{
    return is_alnum(str_at(text, i)) || str_at(text, i) >= 0x80;
}

/* Is the word that begins at i the name of a saint, as it stands in the names of places? Letters s
 * at the end, as in James's and St Albans, and the apostrophe do not count. */
static b32 say_is_saint(str text, iz i)
{
    str saints = S("pancra paul jame john alban andrew ann anne barnaba dunstan george gile helen "
                   "helier katharine leonard luke margaret mark martin mary matthew michael neot "
                   "nichola olave peter quintin raphael saviour stephen thoma");
    u8 buf[16];
    writer w = writer_of(buf, countof(buf));
    for (; is_word(text, i) || str_at(text, i) == '\''; i++)
        if (is_alnum(text.ptr[i])) /* not an apostrophe of either form */
            put_byte(&w, to_lower(text.ptr[i]));
    while (w.len && w.buf[w.len - 1] == 's')
        w.len--;
    while (saints.len && !w.error)
        if (str_eq(str_cut(&saints, ' '), written(&w)))
            return 1;
    return 0;
}

/* Is the "St" at from..to a street's? The word before it ends right before the blanks and begins
 * with a capital. */
static b32 say_is_street(str text, iz from, iz to)
{
    iz before = from, after = to;
    while (str_at(text, before - 1) == ' ')
        before--;
    if (before == from || !is_word(text, before - 1))
        return 0;
    while (before && str_at(text, before - 1) != ' ')
        before--;
    while (!is_word(text, before))
        before++;
    while (is_one_of(str_at(text, after), ". "))
        after++;
    return is_upper(str_at(text, before)) && !say_is_saint(text, after);
}

/* How the word at from..to is said, as a null pointer where it is said as it stands. *to moves on
 * over what belongs to the abbreviation. */
static str say_word(str text, iz from, iz *to)
{
    str word = str_span(text, from, *to);
    str words = S("DLR=D.L.R. TfL=T.F.L. TFL=T.F.L. Rd=Road Stn=station stn=station mins=minutes "
                  "Mins=minutes N=northbound n=northbound S=southbound s=southbound E=eastbound "
                  "e=eastbound W=westbound w=westbound ");
    b32 bound = str_at(text, *to) == '/' && to_lower(str_at(text, *to + 1)) == 'b' &&
                !is_word(text, *to + 2);
    while (words.len) {
        str said = str_cut(&words, ' ');
        if (!str_eq(str_cut(&said, '='), word) || (word.len == 1 && !bound))
            continue;
        *to += word.len == 1 ? 2 : 0;
        return said;
    }
    if ((!str_is(word, "St") && !str_is(word, "ST")) || !say_is_street(text, from, *to))
        return (str){0, 0};
    iz next = *to + 1; /* a dot that abbreviates, not one that ends the sentence */
    while (str_at(text, next) == ' ')
        next++;
    if (str_at(text, *to) == '.' && is_alnum(str_at(text, next)) && !is_upper(str_at(text, next)))
        ++*to;
    return S("Street");
}

/* Writes text as SSML to be spoken: verbalised, escaped, with no two full stops in a row. */
static void say_put(writer *w, str text)
{
    for (iz i = 0; i < text.len;) {
        iz end = i;
        while (is_word(text, end))
            end++;
        str said = end > i ? say_word(text, i, &end) : (str){0, 0};
        u8 c = str_at(text, i), last = str_at(written(w), w->len - 1);
        if (said.ptr)
            put(w, said);
        else if (end > i)
            put(w, str_span(text, i, end));
        else if (c == '&')
            put(w, last == ' ' || !last ? S("and") : S(" and"));
        else if (c == '<')
            put_text(w, "&lt;");
        else if (c == '>')
            put_text(w, "&gt;");
        else if (c != '.' || last != '.')
            put_byte(w, c);
        if (c == '&' && str_at(text, i + 1) != ' ')
            put_byte(w, ' ');
        i = end > i ? end : i + 1;
    }
}

/* The longest beginning of at most max bytes that ends with a sentence; where the first sentence is
 * longer, one that ends with a word; never inside a character or SSML entity. A dot behind a single
 * letter, as in D.L.R., ends no sentence. */
static str text_cut(str s, iz max)
{
    iz sentence = 0, word = 0, character = 0, entity = -4; /* &lt; has four bytes */
    if (s.len <= max)
        return s;
    for (iz i = 1; i <= max; i++) {
        u8 c = s.ptr[i - 1];
        entity = c == '&' ? i : c == ';' ? -4 : entity;
        if ((s.ptr[i] & 0xc0) != 0x80 && i - entity >= 4)
            character = i;
        if (s.ptr[i] != ' ')
            continue;
        word = i;
        if (c == '!' || c == '?' || (c == '.' && (is_word(s, i - 3) || !is_word(s, i - 2))))
            sentence = i;
    }
    return str_span(s, 0, sentence ? sentence : word ? word : character);
}

/* What a line is called behind "the": Victoria line, DLR, Elizabeth line. */
static void line_put_name(writer *w, str name)
{
    put(w, name);
    iz n = name.len;
    b32 whole = str_eq_nocase(name, S("DLR")) || str_eq_nocase(name, S("London Overground")) ||
                (n > 5 && str_eq_nocase(str_from(name, n - 5), S(" line")));
    put(w, whole ? S("") : S(" line"));
}

/* A sentence of the table with the line's name for %, or "it" where the name is empty. */
static void line_put_sentence(writer *w, str sentence, str name)
{
    str rest = sentence, head = str_cut(&rest, '%');
    put(w, w->len ? S(" ") : S(""));
    iz start = w->len;
    put(w, head);
    put(w, name.len ? S("the ") : S(""));
    if (name.len)
        line_put_name(w, name);
    else
        put_text(w, "it");
    put(w, rest);
    if (!w->error && !head.len)
        w->buf[start] &= (u8)~0x20; /* "the" or "it" begins the sentence */
}

/* The row of its severity; for one that is not in the table a row without a sentence, or that of
 * information where only a reason tells more. */
static str status_row(const line_status *s)
{
    b32 known = s->severity >= 0 && s->severity < SEVERITY_COUNT;
    if (!known && (s->description.len || !s->reason.len))
        return S("B");
    return text_row(S(severities), known ? s->severity : SEVERITY_INFORMATION);
}

static i32 status_badness(const line_status *s)
{
    return str_at(status_row(s), 0) - 'A';
}

/* What a status says by itself, of the line by name or of "it": by its number, or in TfL's words
 * for a number that is not in the table; nothing when there is neither. */
static void status_put(writer *w, const line_status *s, str name)
{
    str row = status_row(s);
    if (row.len > 1) {
        line_put_sentence(w, str_from(row, 1), name);
    } else if (s->description.len && s->description.len < LINE_MESSAGE_MAX / 4) {
        put(w, w->len ? S(" TfL reports ") : S("TfL reports "));
        put(w, s->description);
        line_put_sentence(w, S("on %."), name);
    }
}

/* Is this prefix of a reason the line's own name, with or without "line"? What people call the
 * line is not: Hammersmith may be the station. */
static b32 line_is_called(str prefix, str name)
{
    u8 one[64], two[64];
    writer w1 = writer_of(one, countof(one)), w2 = writer_of(two, countof(two));
    str called = line_fold(&w1, prefix), own = line_fold(&w2, name);
    if (str_is(called, "docklands light railway"))
        called = S("dlr");
    return called.len && str_eq(called, own);
}

/* A reason without the prefix in which TfL repeats this line's own name; nothing if it is no more
 * than that. `name` is what the line is called here. */
static str reason_of(const line *l, str name, arena *a, str raw)
{
    str text = text_tidy(a, raw, 1), rest = text, prefix = str_cut(&rest, ':');
    while (rest.len && (line_is_called(prefix, l->name) || line_is_called(prefix, name))) {
        text = rest = str_trim(rest);
        prefix = str_cut(&rest, ':');
    }
    return text.len > 1 ? text : S("");
}

/* Does the text name the line, whatever the case and the form of "and"? */
static b32 text_names(arena *a, str text, str name)
{
    u8 called[96], folded[96];
    b32 found = 0;
    writer call = writer_of(called, countof(called)), w = writer_of(folded, countof(folded));
    line_put_name(&call, name);
    str wanted = text_fold(&w, call.error ? S("") : written(&call));
    writer all = arena_writer(a, text.len * 5);
    text = text_fold(&all, text);
    for (iz i = 0; wanted.len && i + wanted.len <= text.len && !found; i++)
        found = str_eq(str_span(text, i, i + wanted.len), wanted);
    writer_cut(&all, 0);
    arena_keep(a, &all);
    return found;
}

/* The statuses that hold now and matter, the worst first, in TfL's order where equally bad: those
 * without disruption matter only when there is no other. Gives their number. */
static iz statuses_now(const line *l, const line_status *now[REASONS_MAX])
{
    iz count = 0;
    for (const line_status *s = l->statuses; s; s = s->next) {
        iz at = count;
        if (!s->now)
            continue;
        while (at > 0 && status_badness(now[at - 1]) < status_badness(s))
            at--;
        if (at == REASONS_MAX)
            continue;
        count += count < REASONS_MAX;
        for (iz i = count - 1; i > at; i--)
            now[i] = now[i - 1];
        now[at] = s;
    }
    while (count > 1 && !status_badness(now[count - 1]) && !now[count - 1]->reason.len)
        count--;
    return count;
}

/* Did one of the statuses before number i say the same: the reason, or without one the severity? */
static b32 status_is_told(const line_status *const *now, const str *reasons, iz i)
{
    for (iz k = 0; k < i; k++)
        if (reasons[i].len ? str_eq_nocase(reasons[i], reasons[k])
                           : !reasons[k].len && now[i]->severity == now[k]->severity)
            return 1;
    return 0;
}

/* What is said of one line, `name` being how it is called. A first sentence names the line and
 * tells the worst status, unless TfL's own reasons name it and one is there for that status. Then
 * come the distinct reasons, and in between the statuses that have none. */
static str line_message(const line *l, str name, arena *a)
{
    const line_status *now[REASONS_MAX];
    str reasons[REASONS_MAX];
    b32 named = 0;
    iz count = statuses_now(l, now);
    for (iz i = 0; i < count; i++) {
        reasons[i] = reason_of(l, name, a, now[i]->reason);
        named |= text_names(a, reasons[i], name);
    }
    writer w = arena_writer(a, LINE_MESSAGE_MAX);
    if (l->statuses && !count)
        line_put_sentence(&w, str_from(text_row(S(severities), SEVERITY_GOOD), 1), name);
    else if (count && !(named && reasons[0].len))
        status_put(&w, now[0], name);
    for (iz i = 0; i < count; i++) {
        if (status_is_told(now, reasons, i))
            continue;
        if (reasons[i].len) {
            put(&w, w.len ? S(" ") : S(""));
            put(&w, text_cut(reasons[i], w.cap - w.len));
        } else if (i) {
            status_put(&w, now[i], S(""));
        }
    }
    if (!w.len)
        line_put_sentence(&w, S("The status of % is unknown at present."), name);
    return text_tidy(a, arena_keep(a, &w), 1);
}

/* What the skill answers, in plain text. */
typedef struct {
    messages said;
    str title;    /* of the card; no card without one */
    str reprompt; /* the question that leaves the session open; closed without one */
    b32 link;     /* LinkAccount in place of a Standard card */
} answer;

static void answer_say(answer *r, str text)
{
    messages_insert(&r->said, r->said.count, text);
}

static void answer_ask(answer *r, str text, str reprompt)
{
    answer_say(r, text);
    r->reprompt = reprompt;
}

/* Speech as SSML: one message plain, several as paragraphs, as many as fit into max bytes. */
static void answer_put_speech(writer *w, arena *a, const messages *said, iz max)
{
    iz room = max - S("<speak></speak>").len;
    b32 many = said->count > 1;
    put_text(w, "<speak>");
    for (iz i = 0; i < said->count; i++) {
        writer one = arena_writer(a, said->text[i].len * 5 + 16); /* "&" and "<" grow to 5 */
        say_put(&one, said->text[i]);
        str text = arena_keep(a, &one), fits;
        if (one.error)
            w->error = one.error;
        room -= many ? S("<p></p>").len : 0;
        if (room <= 0)
            break;
        fits = text_cut(text, room);
        if (fits.len < text.len && i && !str_ends(fits, S(".")))
            break;
        put(w, many ? S("<p>") : S(""));
        put(w, fits);
        put(w, many ? S("</p>") : S(""));
        room -= fits.len;
        if (fits.len < text.len)
            break;
    }
    put_text(w, "</speak>");
}

/* The messages as lines of plain text, as many as fit. */
static void answer_put_text(writer *w, const messages *said, iz max)
{
    for (iz i = 0; i < said->count && w->len < max; i++) {
        str text = said->text[i], fits;
        iz room = max - w->len - (w->len > 0);
        fits = room > 0 ? text_cut(text, room) : S("");
        if (!fits.len || (fits.len < text.len && i && !str_ends(fits, S("."))))
            return;
        put(w, w->len ? S("\n") : S(""));
        put(w, fits);
        if (fits.len < text.len)
            return;
    }
}

static void answer_put_voice(writer *w, arena *a, const messages *said, iz max)
{
    u8 *buf = arena_alloc(a, max);
    writer ssml = writer_of(buf, buf ? max : 0);
    json_put_name(w, "outputSpeech");
    json_put_open(w, '{');
    json_put_member(w, "type", S("SSML"));
    answer_put_speech(&ssml, a, said, max);
    if (ssml.error)
        w->error = ssml.error;
    json_put_member(w, "ssml", written(&ssml));
    put_byte(w, '}');
}

static void answer_put_card(writer *w, arena *a, const answer *r, iz max)
{
    if (!r->link && !r->title.len)
        return;
    json_put_name(w, "card");
    json_put_open(w, '{');
    json_put_member(w, "type", r->link ? S("LinkAccount") : S("Standard"));
    if (!r->link) {
        writer text = arena_writer(a, max);
        str title = text_cut(r->title, ALEXA_CARD_TITLE_MAX);
        answer_put_text(&text, &r->said, max - title.len);
        if (text.error)
            w->error = text.error;
        json_put_member(w, "title", title);
        json_put_member(w, "text", arena_keep(a, &text));
    }
    put_byte(w, '}');
}

/* One try at a response in which speech and card have at most `max` bytes each. */
static str answer_try(const answer *r, arena *a, iz max)
{
    u8 *buf = arena_alloc(a, ALEXA_RESPONSE_MAX);
    writer w = writer_of(buf, buf ? ALEXA_RESPONSE_MAX : 0);
    json_put_open(&w, '{');
    json_put_member(&w, "version", S("1.0"));
    if (r->reprompt.len) {
        writer last = arena_writer(a, max);
        answer_put_text(&last, &r->said, max);
        if (last.error)
            w.error = last.error;
        json_put_name(&w, "sessionAttributes");
        json_put_open(&w, '{');
        json_put_member(&w, "speech", arena_keep(a, &last));
        put_byte(&w, '}');
    }
    json_put_name(&w, "response");
    json_put_open(&w, '{');
    if (r->said.count) {
        answer_put_voice(&w, a, &r->said, max);
        answer_put_card(&w, a, r, max);
        if (r->reprompt.len) {
            messages again = {.count = 1, .text = {r->reprompt}};
            json_put_name(&w, "reprompt");
            json_put_open(&w, '{');
            answer_put_voice(&w, a, &again, max);
            put_byte(&w, '}');
        }
        json_put_name(&w, "shouldEndSession");
        put(&w, r->reprompt.len ? S("false") : S("true"));
    }
    put_text(&w, "}}");
    return w.error ? (str){0, 0} : written(&w);
}

/* The response as JSON. Speech and card get ALEXA_TEXT_MAX bytes each; where the whole would be too
 * large, half of it, and half again. A null pointer if there is no memory even for the least. */
static str answer_write(const answer *r, arena *a)
{
    str body = {0, 0};
    u8 *mark = a->at;
    for (iz max = ALEXA_TEXT_MAX; max > 400 && !body.ptr; max /= 2) {
        arena_rewind(a, mark);
        body = answer_try(r, a, max);
    }
    return body;
}

static void intent_apologise(answer *r, b32 preferences)
{
    answer_say(r, preferences
                      ? S("Sorry, I can't reach your preferences. Please try again later.")
                      : S("Sorry, I can't get the latest from TfL. Please try again later."));
}

static void intent_launch(answer *r)
{
    answer_ask(r,
               S("Welcome to London Travel. Ask me about a line, about disruption, or about your "
                 "commute. What would you like to know?"),
               S("What would you like to know? You could say: how is the Victoria line?"));
}

static void intent_help(answer *r)
{
    answer_ask(r,
               S("I can tell you how trains are running on the Tube, London Overground, the DLR "
                 "and the Elizabeth line. Say: how is the Central line, or: is there any "
                 "disruption. Once your account is linked, say: how is my commute. What would you "
                 "like to know?"),
               S("What would you like to know?"));
}

static void intent_goodbye(answer *r)
{
    answer_say(r, S("Goodbye, and travel safely."));
}

static void intent_sorry_what(answer *r)
{
    answer_ask(r,
               S("Sorry, I can't help with that. Ask me about a line, about disruption, or about "
                 "your commute. What would you like to know?"),
               S("What would you like to know?"));
}

static void intent_repeat(task *t, const alexa_request *q, answer *r)
{
    str last = text_cut(q->member[ALEXA_SPEECH], ALEXA_TEXT_MAX);
    last = text_tidy(t->arena, last, 1);
    if (last.len)
        answer_ask(r, last, S("What would you like to know?"));
    else
        answer_ask(r, S("There is nothing to repeat yet. What would you like to know?"),
                   S("What would you like to know?"));
}

/* The six lines as one: a single message where they all fare alike, else one for each that is not
 * well and one for the rest. */
static void intent_overground(task *t, const line *lines, answer *r)
{
    str whole = S("London Overground"), first = {0, 0};
    b32 alike = 1, good = 0, rest = 0;
    const line_status *now[REASONS_MAX];
    for (const line *l = lines; l; l = l->next) {
        str message = line_message(l, whole, t->arena);
        alike &= !first.ptr || str_eq_nocase(first, message);
        first = first.ptr ? first : message;
    }
    if (alike && first.ptr) {
        answer_say(r, first);
        return;
    }
    for (const line *l = lines; l; l = l->next) {
        iz count = statuses_now(l, now);
        good = l->statuses && (!count || (!status_badness(now[0]) && !now[0]->reason.len));
        rest |= good;
        if (!good)
            answer_say(r, line_message(l, l->name, t->arena));
    }
    if (rest)
        answer_say(r, S("There is a good service on the other London Overground lines."));
}

/* The states of lines in groups of LINES_PER_CALL; a group that TfL answers with 404 is asked line
 * by line. Lines that TfL does not know are counted in *unknown. */
static err lines_status(task *t, const line_ids *ids, line **lines, iz *unknown)
{
    for (iz at = 0; at < ids->count; at += LINES_PER_CALL) {
        iz count = ids->count - at;
        count = count < LINES_PER_CALL ? count : LINES_PER_CALL;
        err error = tfl_status(t, ids->id + at, count, lines);
        for (iz i = 0; error == E_LineUnknown && i < count; i++) {
            err one = count > 1 ? tfl_status(t, ids->id + at + i, 1, lines) : error;
            *unknown += one == E_LineUnknown;
            if (one && one != E_LineUnknown)
                return one;
        }
        if (error && error != E_LineUnknown)
            return error;
    }
    return E_None;
}

static void intent_status(task *t, const alexa_request *q, answer *r)
{
    line_ids ids = {0};
    line *lines = 0;
    iz unknown = 0;
    known_line wanted = line_find(q->slot_id);
    if (!wanted.id.len)
        wanted = line_find(q->slot_name);
    if (!wanted.id.len)
        wanted = line_find(q->member[ALEXA_SLOT]);
    if (!wanted.id.len) {
        str sorry = S("Sorry, I don't know that line. Which line would you like to hear about?");
        str which = str_from(sorry, S("Sorry, I don't know that line. ").len);
        answer_ask(r, q->member[ALEXA_SLOT].len ? sorry : which, which);
        return;
    }
    line_ids_add_today(&ids, wanted.id);
    if (lines_status(t, &ids, &lines, &unknown) || !lines) {
        intent_apologise(r, 0);
        return;
    }
    writer title = arena_writer(t->arena, 64);
    line_put_name(&title, wanted.name);
    r->title = arena_keep(t->arena, &title);
    if (ids.count > 1)
        intent_overground(t, lines, r);
    else
        answer_say(r, line_message(lines, wanted.name, t->arena));
}

static void intent_disruption(task *t, answer *r)
{
    if (tfl_disruption(t, &r->said)) {
        r->said.count = 0;
        intent_apologise(r, 0);
        return;
    }
    r->title = S("Disruption");
    if (!r->said.count)
        answer_say(r, S("There is no disruption on the Tube, London Overground, the DLR or the "
                        "Elizabeth line."));
    else
        answer_say(r, S("No other disruption is reported."));
}

/* The lines in alphabetical order of their names. */
static line *lines_sorted(line *lines)
{
    line *sorted = 0;
    while (lines) {
        line *l = lines, **at = &sorted;
        lines = l->next;
        while (*at && str_order_nocase((*at)->name, l->name) <= 0)
            at = &(*at)->next;
        l->next = *at;
        *at = l;
    }
    return sorted;
}

static void intent_link(answer *r)
{
    r->link = 1;
    answer_say(r, S("To hear about your commute, please link your account. I've sent a card to "
                    "the Alexa app that shows how."));
}

static void intent_commute(task *t, const alexa_request *q, answer *r)
{
    line_ids favourites = {0};
    line *lines = 0;
    iz unknown = 0;
    str token = alexa_token(q);
    if (t->skill->preferences.error == E_PreferencesNotSet) {
        answer_say(r, S("Sorry, your commute isn't set up in this skill."));
        return;
    }
    if (token.len && !alexa_token_valid(token))
        log_line(&t->skill->log, LOG_ERROR, S("access token"), S(""), E_AccessTokenInvalid);
    if (!alexa_token_valid(token)) {
        intent_link(r);
        return;
    }
    err error = preferences_get(t, token, &favourites);
    if (error == E_AccessTokenRefused) {
        intent_link(r);
        return;
    }
    if (error) {
        intent_apologise(r, 1);
        return;
    }
    if (!favourites.count) {
        answer_say(r, S("You haven't chosen any favourite lines yet. You can choose them on the "
                        "London Travel website."));
        return;
    }
    error = lines_status(t, &favourites, &lines, &unknown);
    if (error || (!lines && !unknown)) {
        intent_apologise(r, 0);
        return;
    }
    r->title = S("Your commute");
    for (line *l = lines_sorted(lines); l; l = l->next)
        answer_say(r, line_message(l, l->name, t->arena));
    if (unknown)
        answer_say(r, unknown > 1 ? S("TfL doesn't know some of your favourite lines.")
                                  : S("TfL doesn't know one of your favourite lines."));
}

/* False for an intent that is not the skill's: it gets a polite answer all the same. */
static b32 intent_answer(task *t, const alexa_request *q, answer *r)
{
    str name = q->member[ALEXA_INTENT];
    if (str_is(name, "StatusIntent"))
        intent_status(t, q, r);
    else if (str_is(name, "DisruptionIntent"))
        intent_disruption(t, r);
    else if (str_is(name, "CommuteIntent"))
        intent_commute(t, q, r);
    else if (str_is(name, "AMAZON.HelpIntent"))
        intent_help(r);
    else if (str_is(name, "AMAZON.StopIntent") || str_is(name, "AMAZON.CancelIntent") ||
             str_is(name, "AMAZON.NavigateHomeIntent"))
        intent_goodbye(r);
    else if (str_is(name, "AMAZON.RepeatIntent"))
        intent_repeat(t, q, r);
    else {
        intent_sorry_what(r);
        return str_is(name, "AMAZON.FallbackIntent");
    }
    return 1;
}

/* Answers a request. A type that takes no speech, or that is not known, leaves the answer empty,
 * which is written as the minimal valid response. */
static void alexa_answer(task *t, const alexa_request *q, answer *r)
{
    const logger *log = &t->skill->log;
    if (str_is(q->member[ALEXA_TYPE], "LaunchRequest")) {
        intent_launch(r);
    } else if (str_is(q->member[ALEXA_TYPE], "IntentRequest")) {
        if (!intent_answer(t, q, r))
            log_line(log, LOG_WARN, S("intent"), q->member[ALEXA_INTENT], E_UnhandledIntent);
    } else if (str_is(q->member[ALEXA_TYPE], "SessionEndedRequest")) {
        if (q->member[ALEXA_ERROR].len)
            log_line(log, LOG_ERROR, S("session ended by"), q->member[ALEXA_ERROR],
                     E_SkillException);
        else
            log_line(log, LOG_INFO, S("session ended by"), q->member[ALEXA_REASON], E_None);
    } else if (str_is(q->member[ALEXA_TYPE], "System.ExceptionEncountered")) {
        log_line(log, LOG_ERROR, S("exception"), q->member[ALEXA_ERROR], E_SkillException);
    } else {
        log_line(log, LOG_WARN, S("request type"), q->member[ALEXA_TYPE], E_UnhandledRequestType);
    }
}

/* ---------------------------------------------------------------------------------------------
 * 16 the loop
 *
 * The program in summary: ask Lambda for an event, make a response of it, hand it back. What one
 * invocation used is wiped before the next one. The first request is on its way before anything
 * that only an event needs is set up.
 * ------------------------------------------------------------------------------------------ */

/* From the bytes of an event to the bytes of its response. Errors are for /error: the event is not
 * one that this skill answers. Trouble with TfL or the preferences is not among them: the user
 * hears of it in a response. */
static err skill_handle(skill *s, const invocation *i, arena *a, str *response)
{
    alexa_request q;
    task t = {s, a, i->deadline, os_unix_ms() / 1000};
    answer *r = arena_new(a, answer, 1);
    err error = i->error ? i->error : !r ? E_OutOfMemory : alexa_parse(i->event, a, &q);
    if (error)
        return error;
    if (s->verify && !alexa_is_for(&q, s->skill_id))
        return E_SkillIdMismatch;
    alexa_answer(&t, &q, r);
    *response = answer_write(r, a);
    return response->ptr ? E_None : E_OutOfMemory;
}

/* Handles one event. An error means that the runtime should end. */
static err skill_invoke(skill *s, lambda *l, const invocation *i, arena *a)
{
    str response;
    err error = skill_handle(s, i, a, &response);
    if (!error && a->end - a->at < response.len + LAMBDA_POST_ROOM)
        error = E_OutOfMemory;
    if (!error)
        return lambda_respond(l, a, i, response);
    log_line(&s->log, LOG_ERROR, S("event refused"), S(""), error);
    return lambda_report(l, a, i, error);
}

/* Returns the exit status, when Lambda's side has gone or says so. */
static i32 skill_run(arena *process, arena *a, const char *const *env)
{
    lambda *l = arena_new(process, lambda, 1);
    skill *s = arena_new(process, skill, 1);
    invariant(l && s);
    err error = lambda_init(l, env);
    if (error)
        os_log(
            S("bootstrap: AWS_LAMBDA_RUNTIME_API is missing or malformed. AWS Lambda starts this "
              "program; to try it here, type: make run\n"));
    iz failures = 0;
    l->log = &s->log;
    if (!error && str_is(env_get(env, S("AWS_LAMBDA_INITIALIZATION_TYPE")), "snap-start")) {
        skill_init(s, env);
        error = lambda_restore(l, a);
        if (error)
            log_line(&s->log, LOG_FATAL, S("not restored"), S(""), error);
    }
    for (b32 first = 1; !error; first = 0) {
        invocation i;
        arena_reset(a);
        s->log.request_id = S("");
        error = lambda_ask(l, "invocation/next");
        if (first)
            skill_init(s, env);
        error = error ? error : lambda_receive(l, a, &i);
        if (!error) {
            failures = 0;
            error = skill_invoke(s, l, &i, a);
        } else if (error != E_RuntimeApiStatus && ++failures < LAMBDA_TRIES) {
            log_line(&s->log, LOG_WARN, S("no event"), S(""), error);
            connection_close(&l->connection);
            os_sleep(os_monotonic() + (failures - 1) * RETRY_PAUSE);
            error = E_None;
        }
        if (error)
            log_line(&s->log, LOG_FATAL, S("the runtime ends"), S(""), error);
    }
    return 1;
}

/* ---------------------------------------------------------------------------------------------
 * 17 Linux
 *
 * System calls, start-up and the four functions that compilers call by themselves. Nothing here
 * is newer than Linux 5.10. The tests leave this section out and answer for it.
 *
 * At _start the kernel has set the stack pointer, and nothing else that counts:
 *
 *   sp -> argc | argv[0] ... argv[argc-1] | 0 | envp[0] ... | 0 | auxv type, value ... | AT_NULL
 * ------------------------------------------------------------------------------------------ */
#ifndef SKILL_TEST

#ifdef __x86_64__

enum {
    SYS_write = 1,
    SYS_close = 3,
    SYS_socket = 41,
    SYS_connect = 42,
    SYS_sendto = 44,
    SYS_recvfrom = 45,
    SYS_getsockopt = 55,
    SYS_clock_gettime = 228,
    SYS_clock_nanosleep = 230,
    SYS_exit_group = 231,
    SYS_ppoll = 271,
};

/* The kernel leaves all registers but rax (the result), rcx and r11 as they were. */
static long system_call(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n" /* the outermost frame */
        "mov %rsp, %rdi\n"
        "and $-16, %rsp\n"
        "call start\n");

#else /* aarch64 */

enum {
    SYS_close = 57,
    SYS_write = 64,
    SYS_ppoll = 73,
    SYS_exit_group = 94,
    SYS_clock_gettime = 113,
    SYS_clock_nanosleep = 115,
    SYS_socket = 198,
    SYS_connect = 203,
    SYS_sendto = 206,
    SYS_recvfrom = 207,
    SYS_getsockopt = 209,
};

/* The kernel leaves all registers but x0 (the result) as they were. */
static long system_call(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

__asm__(".globl _start\n"
        "_start: mov x29, #0\n" /* the outermost frame */
        "mov x30, #0\n"
        "mov x0, sp\n"
        "b start\n");

#endif

enum {
    EAGAIN = 11,
    ECONNRESET = 104,
    EPIPE = 32,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTUNREACH = 113,
    ENETUNREACH = 101,
    EINPROGRESS = 115,
    EINTR = 4,
    AF_INET = 2,
    AF_INET6 = 10,
    SOCK_STREAM = 1,
    SOCK_NONBLOCK = 04000,
    SOCK_CLOEXEC = 02000000,
    SOL_SOCKET = 1,
    SO_ERROR = 4,
    MSG_DONTWAIT = 0x40,
    MSG_NOSIGNAL = 0x4000,
    POLLIN = 1,
    POLLOUT = 4,
    CLOCK_REALTIME = 0,
    CLOCK_MONOTONIC = 1,
    TIMER_ABSTIME = 1,
    AT_RANDOM = 25,
};

typedef struct {
    i64 seconds, nanoseconds;
} timespec;

/* Eight bytes at any address; may overlay objects of any type. */
typedef u64 __attribute__((may_alias, aligned(1))) word;

/* The empty asm statements keep compilers from taking a loop for the very function it is in. */
void *memcpy(void *restrict to, const void *restrict from, uz n)
{
    u8 *t = to;
    const u8 *f = from;
    for (; n >= 8; n -= 8, t += 8, f += 8) {
        *(word *)t = *(const word *)f;
        __asm__ volatile("" ::: "memory");
    }
    for (; n; n--) {
        *t++ = *f++;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

void *memmove(void *to, const void *from, uz n)
{
    u8 *t = to;
    const u8 *f = from;
    if ((uz)t - (uz)f >= n) /* wraps to a large number where `to` lies before `from` */
        while (n--) {
            *t++ = *f++;
            __asm__ volatile("" ::: "memory");
        }
    else
        while (n--) {
            t[n] = f[n];
            __asm__ volatile("" ::: "memory");
        }
    return to;
}

void *memset(void *to, int byte, uz n)
{
    u8 *t = to;
    u64 pattern = (u8)byte * 0x0101010101010101ull;
    for (; n >= 8; n -= 8, t += 8) {
        *(word *)t = pattern;
        __asm__ volatile("" ::: "memory");
    }
    for (; n; n--) {
        *t++ = (u8)byte;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

int memcmp(const void *a, const void *b, uz n)
{
    const u8 *x = a, *y = b;
    for (uz i = 0; i < n; i++) {
        if (x[i] != y[i])
            return x[i] - y[i];
        __asm__ volatile("" ::: "memory");
    }
    return 0;
}

static i64 os_clock(long which)
{
    timespec t;
    invariant(!system_call(SYS_clock_gettime, which, (long)&t, 0, 0, 0, 0));
    return t.seconds * SECOND + t.nanoseconds;
}

static i64 os_monotonic(void)
{
    return os_clock(CLOCK_MONOTONIC);
}

static i64 os_unix_ms(void)
{
    return os_clock(CLOCK_REALTIME) / MS;
}

static void os_sleep(i64 until)
{
    timespec t = {until / SECOND, until % SECOND};
    while (system_call(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, (long)&t, 0, 0, 0) ==
           -EINTR)
        ;
}

static err os_error(long result)
{
    switch (-result) {
    case ECONNREFUSED:
        return E_ConnectRefused;
    case ECONNRESET:
    case EPIPE:
        return E_ConnectionReset;
    case ETIMEDOUT:
        return E_TimedOut;
    case EHOSTUNREACH:
    case ENETUNREACH:
        return E_Unreachable;
    }
    return E_NetworkFailure;
}

/* Waits until the socket is ready or the deadline has come. */
static err os_wait(i32 fd, i32 events, i64 deadline)
{
    struct {
        i32 fd;
        u16 events, revents;
    } poll = {fd, (u16)events, 0};
    for (;;) {
        i64 left = deadline == FOREVER ? SECOND : deadline - os_monotonic();
        if (left <= 0)
            return E_TimedOut;
        timespec t = {left / SECOND, left % SECOND};
        long time = deadline == FOREVER ? 0 : (long)&t;
        long n = system_call(SYS_ppoll, (long)&poll, 1, time, 0, 0, 0);
        if (n > 0)
            return E_None;
        if (n < 0 && n != -EINTR)
            return os_error(n);
    }
}

static long os_socket_address(const address *a, u8 out[28])
{
    memset(out, 0, 28);
    out[0] = a->v6 ? AF_INET6 : AF_INET; /* little-endian u16 on both machines */
    out[2] = (u8)(a->port >> 8);
    out[3] = (u8)a->port;
    copy(out + (a->v6 ? 8 : 4), a->ip, a->v6 ? 16 : 4);
    return a->v6 ? 28 : 16;
}

static err os_connect(i32 *fd, const address *to, i64 deadline)
{
    u8 place[28];
    long size = os_socket_address(to, place);
    long type = SOCK_STREAM | SOCK_CLOEXEC | (deadline == FOREVER ? 0 : SOCK_NONBLOCK);
    long s = system_call(SYS_socket, to->v6 ? AF_INET6 : AF_INET, type, 0, 0, 0, 0);
    if (s < 0)
        return os_error(s);
    long result = system_call(SYS_connect, s, (long)place, size, 0, 0, 0);
    err error = E_None;
    if (result == -EINPROGRESS) {
        i32 failure = 0, length = sizeof failure;
        error = os_wait((i32)s, POLLOUT, deadline);
        result =
            system_call(SYS_getsockopt, s, SOL_SOCKET, SO_ERROR, (long)&failure, (long)&length, 0);
        result = result ? result : -failure;
    }
    if (!error && result)
        error = os_error(result);
    if (error)
        os_close((i32)s);
    else
        *fd = (i32)s;
    return error;
}

static err os_send(i32 fd, str data, i64 deadline)
{
    while (data.len) {
        long n = system_call(SYS_sendto, fd, (long)data.ptr, data.len, MSG_NOSIGNAL, 0, 0);
        if (n > 0) {
            data = str_from(data, n);
        } else if (n == -EAGAIN) {
            err error = os_wait(fd, POLLOUT, deadline);
            if (error)
                return error;
        } else if (n != -EINTR) {
            return os_error(n);
        }
    }
    return E_None;
}

static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error)
{
    long flags = deadline == FOREVER ? 0 : MSG_DONTWAIT;
    for (;;) {
        long n = system_call(SYS_recvfrom, fd, (long)buf, cap, flags, 0, 0);
        if (n >= 0)
            return n;
        if (n == -EAGAIN)
            *error = os_wait(fd, POLLIN, deadline);
        else if (n != -EINTR)
            *error = os_error(n);
        if (*error)
            return -1;
    }
}

static void os_close(i32 fd)
{
    system_call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static void os_log(str text)
{
    system_call(SYS_write, 2, (long)text.ptr, text.len, 0, 0, 0);
}

static iz os_guard(u8 *at, iz room)
{
    (void)at, (void)room;
    return 0;
}

static void os_unguard(u8 *from, iz n)
{
    (void)from, (void)n;
}

/* What -fstack-protector-strong puts before a function's return address and checks on the way
 * out. Hidden, so that no global offset table is needed to find it. */
extern uz __stack_chk_guard __attribute__((visibility("hidden")));
uz __stack_chk_guard;

void __stack_chk_fail(void) __attribute__((noreturn, visibility("hidden")));
void __stack_chk_fail(void)
{
    __builtin_trap();
}

static u8 process_memory[PROCESS_BYTES] __attribute__((aligned(16)));
static u8 invocation_memory[INVOCATION_BYTES] __attribute__((aligned(16)));

static i32 start_guarded(const char *const *env)
{
    arena process = arena_of(process_memory, PROCESS_BYTES);
    arena event = arena_of(invocation_memory, INVOCATION_BYTES);
    return skill_run(&process, &event, env);
}

/* Seeds the guard from the kernel's 16 random bytes; its first byte is zero, so that no overrun of
 * text can write it. Not itself protected, since the guard changes under it. */
__attribute__((used, noreturn, no_stack_protector)) static void start(const uz *sp)
{
    const char *const *env = (const char *const *)(sp + sp[0] + 2);
    const uz *aux = (const uz *)env;
    while (*aux)
        aux++;
    for (aux++; *aux; aux += 2)
        if (*aux == AT_RANDOM)
            __stack_chk_guard = *(const word *)aux[1] << 8;
    system_call(SYS_exit_group, start_guarded(env), 0, 0, 0, 0, 0);
    __builtin_trap();
}

#endif
