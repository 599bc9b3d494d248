/* skill.c: London Travel, an Alexa skill, as one freestanding program for AWS Lambda
 *
 * "Alexa, ask London Travel about the Victoria line." This file is all that runs: the client of
 * the Lambda Runtime API, DNS, TLS 1.3 with its cryptography and certificates, HTTP, JSON, TfL's
 * API and the speech. It is linked with nothing.
 *
 * Build it in one command (gcc or clang, x86_64 or aarch64); `make` adds the stack guard and makes
 * the program position independent:
 *
 *   cc -Os -ffreestanding -fno-stack-protector -fno-pie -static -nostdlib -s -o bootstrap skill.c
 *
 * Environment
 *   AWS_LAMBDA_RUNTIME_API      host:port of the Runtime API; Lambda sets it
 *   AWS_LAMBDA_INITIALIZATION_TYPE   snap-start: wait to be restored; Lambda sets it
 *   AWS_LAMBDA_MAX_CONCURRENCY  worker processes, default 1; Managed Instances set it
 *   AWS_LAMBDA_LOG_FORMAT       Text (default) or JSON
 *   AWS_LAMBDA_LOG_LEVEL        TRACE, DEBUG, INFO (default), WARN, ERROR, FATAL
 *   AWS_LAMBDA_FUNCTION_NAME    a dimension of the metrics; Lambda sets it
 *   Skill__TflApiUrl            base URL of TfL's API, default https://api.tfl.gov.uk/
 *   Skill__TflApplicationId     TfL's app_id, and
 *   Skill__TflApplicationKey    its app_key; without them TfL is asked anonymously
 *   Skill__SkillApiUrl          base URL of the preferences API; without it there is no commute
 *   Skill__SkillId              this skill's application id
 *   Skill__VerifySkillId        refuse other skills' requests; true when Skill__SkillId is set
 *   Skill__SecretsPrefix        when neither of the Skill__TflApplication... is set: both, and
 *                               Skill__SkillId unless that is set, are in Secrets Manager, their
 *                               names behind this
 *   SSL_CERT_FILE               PEM bundle of trusted roots, default the system's
 *
 * Each Skill__ value but the prefix may be aws:secretsmanager:<id of a secret> or aws:ssm:<name of
 * a parameter>; section 14 tells how it is fetched. That reads, all of them by AWS's own names:
 *   AWS_REGION                  where, and AWS_ENDPOINT_URL_SECRETS_MANAGER, AWS_ENDPOINT_URL_SSM
 *                               or AWS_ENDPOINT_URL in place of the region's own service
 *   AWS_ACCESS_KEY_ID           with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN: who asks; else
 *   AWS_CONTAINER_CREDENTIALS_FULL_URI   gives these, for AWS_CONTAINER_AUTHORIZATION_TOKEN or what
 *                               the file AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE holds
 *   PARAMETERS_SECRETS_EXTENSION_HTTP_PORT   with AWS_SESSION_TOKEN: the extension is asked instead
 *
 * Verified: every byte of an event, of an answer's head and of its JSON, by strict grammar and
 * named limits; the application id; all that becomes part of a request; the server's certificates,
 * up to a trusted root, and its name.
 * Deliberately not done: no TLS before 1.3, no check for revocation; no recursion on input, no
 * allocation beyond two fixed arenas; no thread, no process but the workers that are asked for, no
 * signal handler but the one that logs a crash, no reliance on SIGTERM; no guess at a malformed
 * answer.
 *
 * Sections; each uses only those above it
 *    1 types, limits, errors
 *    2 platform
 *    3 bytes and strings
 *    4 arenas, reader, writer
 *    5 JSON
 *    6 cryptography
 *    7 DER and X.509
 *    8 TLS 1.3 client
 *    9 DNS
 *   10 connections
 *   11 HTTP/1.1
 *   12 Lambda Runtime API
 *   13 Alexa
 *   14 secrets, TfL and preferences
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
typedef unsigned __int128 u128;
typedef int i32;
typedef long long i64;
typedef __PTRDIFF_TYPE__ iz;
typedef __SIZE_TYPE__ uz;
typedef i32 b32;  /* 0 or 1, as functions take it and give it back ... */
typedef _Bool b8; /* ... and as it is kept in structures */

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

    LITERAL_MAX = 1024, /* a text of this file that is passed without its length */

    EVENT_MAX = 6 * 1024 * 1024 + 1024, /* Lambda's own limit of an event, and a little */
    PROCESS_BYTES = 384 * 1024, /* connections, three engines of TLS of 94 KB, a crash's stack */
    INVOCATION_BYTES = EVENT_MAX + 2 * 1024 * 1024, /* the event and all that its answer needs */
    ARENA_GAP = 32, /* poisoned bytes behind each allocation where AddressSanitizer looks on */

    JSON_DEPTH = 1000,    /* open brackets; real events and answers stay under 20 */
    JSON_NAME_MAX = 64,   /* no name that the program knows is longer */
    JSON_WALKS = 4,       /* one inside another: an event's resolutions need them all */
    JSON_WALK_PATHS = 12, /* wanted by one walk; an event's are 11 */

    LABEL_MAX = 32,   /* bytes of a label of TLS 1.3 without "tls13 "; the longest has 12 */
    CONTEXT_MAX = 64, /* its context: none, a transcript hash, or a ticket's nonce */

    RSA_BITS_MIN = 2048,  /* of a modulus: below it factoring is in reach */
    RSA_BITS_MAX = 4096,  /* the largest of the public roots; bounds the buffers and the work */
    RSA_EXPONENT_MAX = 4, /* bytes: all that are in use have at most 3; bounds the work */

    CERT_EXTENSIONS = 32,  /* of one certificate; public ones carry about ten */
    CERT_ROOT_SIZE = 8192, /* bytes of a root; the largest of the public bundles has 2,007 */
    PATH_CERTS = 10,       /* certificates below the root; public paths have 2 or 3 */
    PATH_CHECKS = 64,      /* signatures checked for one server, whatever it sends */
    PATH_NAMES = 1 << 15,  /* comparisons of a name with a constraint, about 3 ms */

    TLS_PLAIN_MAX = 1 << 14,              /* content of a record: RFC 8446 section 5.1 */
    TLS_SEALED_MAX = TLS_PLAIN_MAX + 256, /* the same protected: section 5.2 */
    TLS_CERTIFICATES_MAX = 32,            /* a chain has 3 or 4; some servers send strays */
    TLS_MESSAGE_MAX = 65536 + 1024,       /* 64 KB of certificates, framed, and CertificateVerify */
    TLS_EXTENSIONS_MAX = 64,              /* in one block; some 25 are in use */
    TLS_OUT_MAX = 8192,                   /* a request with its token; a cookie of over 7,000 */
    TLS_OUT_RESERVE = 256,                /* kept free for Finished, KeyUpdate and an alert */
    TLS_CCS_MAX = 4,                      /* change_cipher_spec records; servers send one */
    TLS_WARNINGS_MAX = 4,                 /* user_canceled alerts */
    TLS_EMPTY_MAX = 32,                   /* empty application records in a row */
    TLS_PADDING_MAX = 1 << 20,            /* bytes of padding in a handshake */
    TLS_UPDATES_MAX = 32,                 /* KeyUpdates without application data between */
    TLS_TICKETS_MAX = 32,                 /* NewSessionTickets, likewise */
    TLS_TICKET_MAX = 512,                 /* a longer one is not kept; most have 120 to 260 */
    TLS_TICKET_LIFE = 7 * 86400,          /* seconds: RFC 8446 section 4.6.1 */
    TLS_RECORDS = 1 << 24,                /* records under one key: RFC 8446 section 5.5 */

    DNS_SERVERS_MAX = 3,   /* as resolv.conf(5): the first three count */
    DNS_ADDRESSES_MAX = 8, /* of one name; more are never tried inside the time budget */
    DNS_CACHE_MAX = 4,     /* names kept: two services, two of AWS; targets of redirects */
    DNS_NAME_MAX = 255,    /* RFC 1035 2.3.4: in wire form; as text 253 */
    DNS_CHAIN_MAX = 16,    /* aliases followed for one name; real chains have two or three */
    DNS_JUMPS_MAX = 127,   /* pointers in one name: 255 bytes hold no more labels than that */
    DNS_STRAYS_MAX = 16,   /* foreign replies borne per attempt: a forger's guesses at an id */
    DNS_REPLY_MAX = 65535, /* what the 16-bit length of RFC 1035 4.2.2 can say */
    DNS_ROOM = 2 + DNS_REPLY_MAX, /* with that length; also what counts of a file, a few lines */
    DNS_ROUNDS = 3,               /* over all the servers; 1 + 2 + 4 s fill the budget of 7 s */
    DNS_WAIT_MS = 1000,           /* per attempt in the first round; doubled with each round */
    DNS_GRACE_MS = 50,            /* for AAAA once A is here: the resolution delay of RFC 8305 3 */
    DNS_TTL_MAX = 300,            /* seconds that an answer is kept at most */

    CONNECTION_BUFFER = 4096, /* one read of plain HTTP; an Alexa event takes one or two */

    HTTP_LINE_MAX = 8192,    /* a status line, header or chunk line; the norm among servers */
    HTTP_HEAD_MAX = 32768,   /* all header lines that are kept */
    HTTP_HEADERS_MAX = 100,  /* headers of one answer, and as many trailers */
    HTTP_INTERIM_MAX = 8,    /* 1xx answers before the real one */
    HTTP_TRIES = 3,          /* one request and two repeats */
    HTTP_REDIRECTS = 3,      /* followed for one answer */
    HTTP_REQUEST_MAX = 4096, /* a request without its body */
    URL_MAX = 1024,          /* a configured base URL */

    LAMBDA_TRIES = 4,         /* failures in a row to be given an event */
    LAMBDA_ID_MAX = 256,      /* a request, invocation or trace id; real ones have 36 to 110 */
    LAMBDA_ANSWER_MAX = 4096, /* what the Runtime API says to a POST; a few dozen bytes */
    LAMBDA_POST_ROOM = 2 * (HTTP_REQUEST_MAX + HTTP_HEAD_MAX + LAMBDA_ANSWER_MAX), /* two tries */
    LOG_LINE_MAX = 2048, /* a log line; of workers' lines 4096 bytes would stay whole */
    LOG_WORD_MAX = 64,   /* a name from outside inside a log line */
    LOG_TOLD_MAX = 256,  /* what an invocation asked for: three words and their names */
    CRASH_STACK = 16384, /* up to 5 KB of registers (AVX-512, SVE), a log line and the calls */
    IMAGE_MAX = 1 << 20, /* of the program's code, as -mcmodel=tiny has it */

    WORKERS_MAX = 256,   /* 16 for each processor, as Lambda's own for Python, on 16 of them */
    WORKER_FAILURES = 4, /* workers in a row that die before WORKER_LIFE; one more ends all */

    ALEXA_RESPONSE_MAX = 24000, /* 24 KB is the old, safe bound of a response */
    ALEXA_TEXT_MAX = 8000,      /* characters of speech with tags, and of a card */
    ALEXA_CARD_TITLE_MAX = 100, /* taken out of the card's 8,000 */
    ALEXA_TOKEN_MAX = 2048,     /* an access token; Alexa's own limit */

    SECRET_MAX = 256,        /* bytes of a value out of a secret; keys have 32, skill ids 52 */
    AWS_SECRET_MAX = 128,    /* of a secret access key; real ones have 40 */
    AWS_REQUEST_MAX = 16384, /* a session token of up to 4 KB, six ids of up to 2,048 bytes */

    UPSTREAM_BODY_MAX = 256 * 1024, /* TfL's answer for all lines is about 21 KB */
    LINE_ID_MAX = 32,               /* a TfL line id; the longest of today has 16 */
    LINE_FOLD_MAX = 64,             /* what a line is called, folded; today's have up to 25 */
    LINE_NAME_MAX = 96,             /* its name and what follows that */
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
static const i64 WORKER_LIFE = 5 * SECOND;       /* a worker that lives for less has failed */
static const i64 WORKER_PAUSE = 100 * MS;        /* before another, for each failure in a row */
static const i64 SECRETS_KEPT = 300 * SECOND;    /* as long as AWS's own caches keep them */
static const i64 SECRETS_PAUSE = 30 * SECOND;    /* between tries to have what cannot be had */
static const i64 SECRETS_BUDGET = 3 * SECOND;    /* of the 7 s; never over half of what is left */

/* Every error, with the sentence that stands behind its name in a log line and so need not repeat
 * it. The names are letters only, since Lambda keeps an error type only in the form
 * (Runtime|Function).[A-Z][A-Za-z]+. ConnectRefused to DnsServerFailure stand together:
 * http_may_pass takes them for trouble that may pass. So do CredentialsRefused to SecretInvalid, a
 * service's own words, of which the last three, from SecretDenied on, say that there is no secret
 * to be had. */
#define ERRORS(X)                                             \
    X(None, "no error")                                       \
    X(OutOfMemory, "this event's memory is used up")          \
    X(BufferFull, "the text is too long")                     \
    X(Truncated, "it ends inside an item")                    \
    X(JsonEmpty, "no value")                                  \
    X(JsonTruncated, "it ends inside a value")                \
    X(JsonSyntax, "a character not allowed here")             \
    X(JsonTooDeep, "over 1000 open brackets")                 \
    X(JsonUtf, "not UTF-8")                                   \
    X(JsonControl, "a control character in a string")         \
    X(JsonEscape, "an unknown escape")                        \
    X(JsonNumber, "a malformed number")                       \
    X(JsonTrailing, "text behind the value")                  \
    X(JsonShape, "not what was asked for")                    \
    X(ConnectRefused, "nobody listens there")                 \
    X(ConnectionReset, "reset by the peer")                   \
    X(ConnectionClosed, "closed too early")                   \
    X(TimedOut, "the time budget is spent")                   \
    X(Unreachable, "no way to the address")                   \
    X(NetworkFailure, "of an unknown kind")                   \
    X(TlsTruncated, "no close_notify")                        \
    X(DnsRefused, "the server refuses")                       \
    X(DnsServerFailure, "the server failed")                  \
    X(AddressInvalid, "not an IP address")                    \
    X(NameInvalid, "not a host name")                         \
    X(DnsStray, "a reply to another question")                \
    X(DnsTruncated, "a reply cut short")                      \
    X(DnsReplyInvalid, "malformed")                           \
    X(DnsChain, "aliases loop or are too many")               \
    X(DnsNoSuchName, "no such host")                          \
    X(DnsNoAddress, "no address")                             \
    X(AeadTag, "a wrong tag")                                 \
    X(KeyShareZero, "the shared secret is zero")              \
    X(KeyScalar, "out of range")                              \
    X(PointInvalid, "not on the curve")                       \
    X(SignatureBad, "a wrong signature")                      \
    X(RsaSize, "not 2048 to 4096 bits, or even")              \
    X(RsaExponent, "even, under 3 or over 32 bits")           \
    X(DerMalformed, "not DER")                                \
    X(CertMalformed, "not as RFC 5280 says")                  \
    X(CertVersion, "not version 3")                           \
    X(CertHostName, "no DNS name or address")                 \
    X(CertNameMismatch, "for other names")                    \
    X(CertExpired, "it has expired")                          \
    X(CertNotYetValid, "not valid yet")                       \
    X(CertKeyUsage, "the key is not for this")                \
    X(CertPurpose, "not for TLS servers")                     \
    X(CertKeyWeak, "under 2048 bits, or odd")                 \
    X(CertKeyUnsupported, "not RSA, P-256 or P-384")          \
    X(CertSignatureWeak, "by MD5 or SHA-1")                   \
    X(CertSignatureUnsupported, "an unknown algorithm")       \
    X(CertSignatureBad, "not by its issuer")                  \
    X(CertExtensionUnknown, "a critical extension")           \
    X(CertIssuerUnknown, "no path to a trusted root")         \
    X(CertNotCa, "the issuer is no CA")                       \
    X(CertPathLength, "over pathLenConstraint")               \
    X(CertPathTooLong, "no root in reach")                    \
    X(CertNameConstraint, "a CA may not certify it")          \
    X(CertSearchBound, "search given up")                     \
    X(TlsVersion, "no TLS 1.3")                               \
    X(TlsDowngrade, "TLS 1.3 was hidden")                     \
    X(TlsNothingShared, "no offer is taken")                  \
    X(TlsPeerAlert, "an alert came")                          \
    X(TlsClosed, "closed during the handshake")               \
    X(TlsRecordType, "a type not due")                        \
    X(TlsRecordLength, "too long")                            \
    X(TlsRecordEmpty, "not allowed")                          \
    X(TlsRecordCount, "too many for one key")                 \
    X(TlsChangeCipherSpec, "a wrong form or place")           \
    X(TlsFlood, "too much that brings nothing")               \
    X(TlsAlertForm, "not exactly one alert")                  \
    X(TlsInterleaved, "another record inside a message")      \
    X(TlsKeyChange, "bytes behind a change")                  \
    X(TlsMessageOrder, "out of order")                        \
    X(TlsMessageSize, "too long")                             \
    X(TlsMessageForm, "it does not parse")                    \
    X(TlsHelloVersion, "not offered")                         \
    X(TlsHelloEcho, "of another id, or compression")          \
    X(TlsSuite, "not offered")                                \
    X(TlsGroup, "not offered")                                \
    X(TlsRetry, "twice, or without effect")                   \
    X(TlsExtensionTwice, "twice, or too many")                \
    X(TlsExtensionUnasked, "not asked for")                   \
    X(TlsExtensionPlace, "in a wrong message")                \
    X(TlsExtensionMissing, "it is mandatory")                 \
    X(TlsTicket, "not the one offered")                       \
    X(TlsAlpn, "not http/1.1")                                \
    X(TlsRequestContext, "not empty")                         \
    X(TlsCertificateCount, "none or too many")                \
    X(TlsScheme, "a wrong scheme")                            \
    X(TlsCertificateVerify, "no proof of the key")            \
    X(TlsFinished, "a wrong MAC")                             \
    X(TlsKeyUpdate, "an undefined value")                     \
    X(UrlMalformed, "not a base URL")                         \
    X(UrlInsecure, "http is for this machine only")           \
    X(HttpStatusLine, "not of HTTP/1.x")                      \
    X(HttpHeader, "malformed")                                \
    X(HttpLineEnd, "a bare CR or LF, or a control character") \
    X(HttpLineTooLong, "over 8192 bytes")                     \
    X(HttpTooManyHeaders, "over 100 headers")                 \
    X(HttpHeadTooLong, "over 32768 bytes")                    \
    X(HttpLength, "malformed or in conflict")                 \
    X(HttpTransferEncoding, "not chunked")                    \
    X(HttpNoLength, "a missing length")                       \
    X(HttpChunk, "malformed")                                 \
    X(HttpChunkSize, "too large for any body")                \
    X(HttpBodyTooLarge, "over its limit")                     \
    X(HttpTruncated, "the answer was cut off")                \
    X(HttpInterim, "too many, or a 101")                      \
    X(HttpRequestUnsafe, "an unfit character")                \
    X(HttpLocation, "no URL or path")                         \
    X(HttpRedirects, "more than 3")                           \
    X(RootsMissing, "no file of roots")                       \
    X(HttpBusy, "status 408, 429 or 5xx")                     \
    X(HttpStatus, "unexpected status")                        \
    X(WorkerCount, "not a number from 1 to 256")              \
    X(WorkerEnded, "before its time")                         \
    X(WorkersFail, "they end soon after their start")         \
    X(WorkerStart, "the system gives no process")             \
    X(RuntimeApiUrl, "missing or malformed")                  \
    X(RuntimeApiStatus, "unexpected status")                  \
    X(RequestIdInvalid, "not visible ASCII")                  \
    X(InvocationIdInvalid, "not visible ASCII")               \
    X(TraceIdInvalid, "not visible ASCII")                    \
    X(SkillIdMismatch, "not for this skill")                  \
    X(SkillIdUnavailable, "its secret is not to be had")      \
    X(RegionInvalid, "missing or malformed")                  \
    X(CredentialsMissing, "no AWS credentials")               \
    X(CredentialsRefused, "wrong keys, token or clock")       \
    X(SecretsStarting, "the extension is not ready")          \
    X(SecretRefused, "for an unknown reason")                 \
    X(SecretDenied, "the role may not read it")               \
    X(SecretNotFound, "no such secret")                       \
    X(SecretInvalid, "not plain text, or over 256 bytes")     \
    X(NotAnAlexaRequest, "no request with a type")            \
    X(AccessTokenInvalid, "not as RFC 6750 says")             \
    X(AccessTokenRefused, "status 401 or 403")                \
    X(LineIdInvalid, "not of a-z, 0-9 and -")                 \
    X(LineUnknown, "TfL does not know it")                    \
    X(PreferencesNotSet, "no Skill__SkillApiUrl")             \
    X(UnhandledRequestType, "not the skill's")                \
    X(UnhandledIntent, "not the skill's")                     \
    X(SkillException, "Alexa reports a failed answer")

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
    b8 v6;
    u16 port;
} address;

static i64 os_monotonic(void); /* ns, never set back */
static i64 os_unix_ms(void);   /* ms since 1970, UTC */
static void os_sleep(i64 until);

static void os_random(u8 *out, iz n);
/* Which instructions that section 6 can use the processor has: CPU_AES are those for AES-GCM. `env`
 * is start-up's. */
enum { CPU_AES = 1, CPU_SHA = 2 };
static u32 os_cpu(const char *const *env);

/* The whole of a file, to be read only; {0, 0} if there is none. os_unmap gives it back. */
static str os_map(const char *path);
static void os_unmap(str file);
/* What can be read of a file's first `cap` bytes, in buf. Cheaper than os_map for a small file. */
static str os_read(const char *path, u8 *buf, iz cap);

/* A connected TCP or UDP socket. The sockets of the Runtime API have the deadline FOREVER
 * throughout. */
static err os_connect(i32 *fd, const address *to, b32 datagram, i64 deadline);
/* Sends all of data. */
static err os_send(i32 fd, str data, i64 deadline);
/* Receives 1..cap bytes; 0 at the end of the stream; -1 with *error set. */
static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error);
static void os_close(i32 fd);

/* Starts a copy of this process, which is killed when this one ends. Its id, 0 in the copy itself,
 * less than 0 if there is none. os_wait_copy waits until a copy has ended: its id, and its status
 * as wait(2) has it. */
static i32 os_copy(void);
static i32 os_wait_copy(i32 *status);

/* One line for the log, in one write. */
static void os_log(str text);
/* From now on a trap or a fault leaves a line in the log, made on this stack of CRASH_STACK bytes,
 * and then ends the process; a log that nobody reads any longer does not end it. */
static void os_catch_crashes(u8 *stack);

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

/* A text that holds a NUL is no literal. */
static b32 str_is(str s, const char *literal)
{
    iz i = 0;
    while (i < s.len && literal[i] && s.ptr[i] == (u8)literal[i])
        i++;
    return i == s.len && !literal[i];
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
    return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
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

/* The index of the first such byte, or -1; eight bytes at a time, as the program looks through its
 * tables with it. A borrow can mark only bytes above one that is found itself, so that the lowest
 * mark is the first such byte. */
static iz str_find(str s, u8 byte)
{
    const u64 ones = 0x0101010101010101, tops = ones << 7;
    iz i = 0;
    for (; s.len - i >= 8; i += 8) {
        u64 v;
        __builtin_memcpy(&v, s.ptr + i, 8);
        v ^= ones * byte;
        u64 marks = (v - ones) & ~v & tops;
        if (marks)
            return i + __builtin_ctzll(marks) / 8;
    }
    for (; i < s.len; i++)
        if (s.ptr[i] == byte)
            return i;
    return -1;
}

/* A big-endian number of up to 8 bytes. */
static u64 str_be(str s)
{
    u64 v = 0;
    for (iz i = 0; i < s.len; i++)
        v = v << 8 | s.ptr[i];
    return v;
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

/* Has a deadline come? Without its sign FOREVER is later than any time. */
static b32 time_is_up(i64 now, i64 deadline)
{
    return (u64)now >= (u64)deadline;
}

/* Takes what stands before `byte` off the front of *s, and `byte` with it; all of *s if there is
 * none. */
static str str_cut(str *s, u8 byte)
{
    str head = *s;
    iz i = str_find(head, byte);
    if (i >= 0)
        head.len = i;
    *s = str_from(*s, head.len + (i >= 0));
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
        u64 digit = (u64)s.ptr[i] - '0'; /* wraps for what comes before 0 */
        if (digit > 9 || digit > max || v > (max - digit) / 10)
            return 0;
        v = v * 10 + digit;
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
static str env_get(const char *const *env, const char *name)
{
    for (; *env; env++) {
        const char *at = *env;
        iz n = 0;
        while (name[n] && at[n] == name[n])
            n++;
        if (!name[n] && at[n] == '=')
            return str_of_array(at + n + 1, EVENT_MAX);
    }
    return (str){0, 0};
}

/* The number of a word in a list of words apart by blanks; -1 if it is not there. */
static i32 str_word(str word, const char *list)
{
    str rest = str_of_array(list, LITERAL_MAX);
    for (i32 i = 0; rest.len; i++)
        if (str_eq(str_cut(&rest, ' '), word))
            return i;
    return -1;
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

/* Kept out of line: it has some twenty callers. */
__attribute__((noinline)) static writer writer_of(u8 *buf, iz cap)
{
    return (writer){buf, 0, cap, E_None};
}

static str written(const writer *w)
{
    return (str){w->buf, w->len};
}

/* The last byte, or 0 where nothing is written. */
static u8 writer_last(const writer *w)
{
    return w->len ? w->buf[w->len - 1] : 0;
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

/* A writer over the next cap bytes of the arena, fewer if it has fewer, until arena_keep takes what
 * was written and gives the rest back; without that all of it stays taken. What else is allocated
 * before arena_keep is to be taken back before it, too. */
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
    put(w, str_of_array(text, LITERAL_MAX));
}

static void put_byte(writer *w, u8 byte)
{
    if (!w->error && w->len == w->cap)
        w->error = E_BufferFull;
    if (!w->error)
        w->buf[w->len++] = byte;
}

/* Decimal, with leading zeros to at least `digits` >= 1 digits. */
static void put_uint(writer *w, u64 v, iz digits)
{
    u8 text[20]; /* 2^64 has 20 digits */
    iz at = countof(text), least = at - digits;
    invariant(least >= 0);
    for (; v || at > least; v /= 10)
        text[--at] = (u8)('0' + v % 10);
    put(w, (str){text + at, countof(text) - at});
}

/* The low n <= 8 bytes of v, big-endian. */
static void put_be(writer *w, u64 v, iz n)
{
    for (iz i = n - 1; i >= 0; i--)
        put_byte(w, (u8)(v >> (8 * i)));
}

/* The low four bits of v. */
static void put_hex_digit(writer *w, u32 v)
{
    put_byte(w, S("0123456789abcdef").ptr[v & 15]);
}

/* A point in time, in ms since 1970, of UTC: year, month, day, hours, minutes, seconds and ms, as
 * many as `behind` has characters. Each of these follows its number, unless it is a blank. */
static void put_time_as(writer *w, i64 unix_ms, str behind)
{
    i64 day = unix_ms / 86400000;
    u32 ms = (u32)(unix_ms % 86400000);
    i64 year = 1970 + day / 366; /* never too late; too early by a year, or by two after 2454 */
    while (days_of_date(year + 1, 1, 1) <= day)
        year++;
    i64 month = 1;
    while (month < 12 && days_of_date(year, month + 1, 1) <= day)
        month++;
    day -= days_of_date(year, month, 1) - 1;
    u32 part[] = {(u32)year,       (u32)month,     (u32)day, ms / 3600000,
                  ms / 60000 % 60, ms / 1000 % 60, ms % 1000};
    for (iz i = 0; i < behind.len; i++) {
        put_uint(w, part[i], S("\4\2\2\2\2\2\3").ptr[i]);
        if (behind.ptr[i] != ' ')
            put_byte(w, behind.ptr[i]);
    }
}

/* The same as RFC 3339 text with milliseconds. */
static void put_time(writer *w, i64 unix_ms)
{
    put_time_as(w, unix_ms, S("--T::.Z"));
}

/* Is it within Unicode, and no surrogate? */
static b32 is_unicode(u32 c)
{
    return c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
}

/* A code point as UTF-8; a surrogate or what is beyond U+10FFFF becomes U+FFFD. */
static void put_utf8(writer *w, u32 c)
{
    if (!is_unicode(c))
        c = 0xfffd;
    i32 more = (c >= 0x80) + (c >= 0x800) + (c >= 0x10000);
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
    if (r->at < r->end)
        return *r->at++;
    reader_fail(r, E_Truncated);
    return 0;
}

/* Takes the next byte if it is c, which is not 0. */
static b32 read_if(reader *r, u8 c)
{
    b32 there = reader_peek(r) == c;
    r->at += there;
    return there;
}

/* Takes the next byte if it is one of a literal's. */
static b32 read_one_of(reader *r, const char *set)
{
    b32 there = is_one_of(reader_peek(r), set);
    r->at += there;
    return there;
}

/* An unsigned big-endian number of n <= 8 bytes. */
static u64 read_be(reader *r, iz n)
{
    return str_be(read_bytes(r, n));
}

/* Takes exactly `digits` <= 9 decimal digits; E_Truncated if they are not there. */
static i64 read_decimal(reader *r, iz digits)
{
    u64 value = 0;
    if (!str_to_uint(read_bytes(r, digits), 1 << 30, &value))
        reader_fail(r, E_Truncated);
    return (i64)value;
}

/* Steps over printable ASCII other than '"' and '\\', eight bytes at a time: nearly all of the
 * inside of JSON strings. For each byte b of a word, the four tests set bit 7 where b has bit 7, is
 * under 0x20, is 0x22 or is 0x5c. A borrow can only set bits above a byte that is marked itself, so
 * that the lowest mark is the first byte to stop at. */
static void read_plain(reader *r)
{
    const u64 ones = 0x0101010101010101, tops = ones << 7;
    while (reader_left(r) >= 8) {
        u64 v;
        __builtin_memcpy(&v, r->at, 8);
        u64 quote = v ^ ones * '"', slash = v ^ ones * '\\';
        u64 marks = (v | (v - ones * ' ') | (quote - ones) | (slash - ones)) & tops;
        r->at += marks ? __builtin_ctzll(marks) / 8 : 8;
        if (marks)
            return;
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
    i32 more = 1 + (c >= 0xe0) + (c >= 0xf0);
    u32 least = 1u << (5 * more + 1); /* 0x10000, 0x800; and 0x40, for which c < 0xc2 stands */
    b32 good = c >= 0xc2 && c <= 0xf4;
    c &= 0x3fu >> more;
    while (good && more--) {
        u8 next = reader_peek(r);
        good = (next & 0xc0) == 0x80;
        c = c << 6 | (next & 63);
        r->at += good;
    }
    if (good && c >= least && is_unicode(c))
        return c;
    reader_fail(r, E_JsonUtf);
    return 0;
}

/* ---- addresses and names of hosts in text ---- */

/* A host name: labels of letters, digits, - and _, the last not a number, as RFC 1123 section 2.1
 * wants it so that it cannot be taken for an address. */
static b32 host_valid(str name)
{
    iz label = 0, digits = 0;
    for (iz i = 0; i < name.len; i++) {
        u8 c = name.ptr[i];
        if (c == '.' && label) {
            label = digits = 0;
            continue;
        }
        if (!is_alnum(c) && !is_one_of(c, "-_"))
            return 0;
        digits += is_digit(c);
        if (++label > 63)
            return 0;
    }
    return label > digits && name.len <= 253;
}

/* 1 to `most` digits, without leading zeros if decimal; -1 if there is no such number here. */
static i32 address_number(reader *r, i32 base, iz most)
{
    b32 zero = reader_peek(r) == '0';
    i32 v = 0, digit;
    iz n = 0;
    for (; n < most && (digit = hex_value(reader_peek(r))) >= 0 && digit < base; n++) {
        v = v * base + digit;
        read_byte(r);
    }
    return !n || (base == 10 && zero && n > 1) ? -1 : v;
}

/* Four decimal numbers with dots between them and nothing else. */
static err address_v4(reader *r, u8 *ip)
{
    for (iz i = 0; i < 4; i++) {
        if (i && read_byte(r) != '.')
            return E_AddressInvalid;
        i32 v = address_number(r, 10, 3);
        if (v < 0 || v > 255)
            return E_AddressInvalid;
        ip[i] = (u8)v;
    }
    return reader_left(r) ? E_AddressInvalid : E_None;
}

/* The three forms of RFC 4291 2.2. */
static err address_v6(reader *r, u8 ip[16])
{
    iz n = 0, gap = -1; /* bytes had so far; how many of them stood before the "::" */
    if (read_if(r, ':') && reader_peek(r) != ':')
        return E_AddressInvalid;
    do {
        if (gap < 0 && read_if(r, ':')) {
            gap = n;
            if (!reader_left(r))
                break;
        }
        const u8 *group = r->at;
        i32 v = address_number(r, 16, 4);
        if (reader_peek(r) == '.') {
            r->at = group;
            if (n > 12 || address_v4(r, ip + n))
                return E_AddressInvalid;
            n += 4;
            break;
        }
        if (v < 0 || n > 14)
            return E_AddressInvalid;
        ip[n++] = (u8)(v >> 8);
        ip[n++] = (u8)v;
    } while (read_if(r, ':'));
    if (reader_left(r) || (gap < 0 ? n != 16 : n > 14))
        return E_AddressInvalid;
    if (gap < 0)
        return E_None;
    memmove(ip + 16 - (n - gap), ip + gap, (uz)(n - gap));
    wipe(ip + gap, 16 - n);
    return E_None;
}

/* Reads an IP address: four decimal numbers without leading zeros (nothing shorter, no octal, no
 * hexadecimal), or a form of RFC 4291 2.2, this one also in brackets as in a URL. No zone index.
 * The port is set to 0. E_AddressInvalid. */
static err address_of(str text, address *out)
{
    reader r = reader_of(text);
    *out = (address){0};
    if (!address_v4(&r, out->ip))
        return E_None;
    out->v6 = 1;
    if (text.len > 2 && text.ptr[0] == '[' && text.ptr[text.len - 1] == ']')
        text = str_span(text, 1, text.len - 1);
    r = reader_of(text);
    return address_v6(&r, out->ip);
}

/* ---------------------------------------------------------------------------------------------
 * 5 JSON
 *
 * A pull tokenizer for RFC 8259, whole and strict: each call of json_next gives one token, and a
 * text that ends with JSON_END without an error is one JSON value and nothing else. Open brackets
 * are kept as one byte each, so that depth costs no recursion. A string stays where it is, escapes
 * and all, until somebody asks for its text; one without escapes is never copied.
 *
 * Where an object holds a name twice the first one counts: a walk skips those that follow.
 * A \u escape of half a surrogate pair is within the grammar and reads as U+FFFD. A byte order
 * mark is refused, as RFC 8259 section 8.1 lets a parser do.
 * ------------------------------------------------------------------------------------------ */

typedef enum {
    JSON_END,
    JSON_ARRAY, /* an object's kinds, here and below, are those of an array and 1 */
    JSON_OBJECT,
    JSON_ARRAY_END,
    JSON_OBJECT_END,
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
    JSON_WANT_NAME,
    JSON_WANT_VALUE_OR_END, /* behind [; from here on the bracket may be shut */
    JSON_WANT_NAME_OR_END,  /* behind { */
    JSON_WANT_COMMA_OR_END,
    JSON_WANT_NOTHING,
} json_want;

/* A walk through the members of an object, and of objects in it, that have one of the wanted
 * paths: "user.accessToken" is the member accessToken of the member user. */
typedef struct {
    str wanted[JSON_WALK_PATHS];
    i32 count;
    u32 seen;   /* which of them have been met: bit i for path i */
    iz outside; /* the depth outside the object */
    str here; /* the beginning of one that has led into an inner object, with its last dot, or "" */
} json_walk;

typedef struct {
    reader in;
    json_want want;
    json_kind kind; /* the last token, */
    str text;       /* and its text: a string without its quotes, or a number */
    b8 escaped;     /* does the last string hold an escape */
    iz depth;
    arena *arena;    /* for texts that hold an escape */
    json_walk *walk; /* behind the innermost */
    json_walk walks[JSON_WALKS];
    b8 object[JSON_DEPTH + 1]; /* is the bracket open at that depth that of an object */
} json;

static void json_start(json *j, str text, arena *a)
{
    j->in = reader_of(text);
    j->want = JSON_WANT_VALUE;
    j->kind = JSON_END;
    j->text = S("");
    j->depth = 0;
    j->arena = a;
    j->walk = j->walks;
    j->object[0] = 0;
}

static json_kind json_fail(json *j, err error)
{
    reader_fail(&j->in, error);
    return JSON_END;
}

static void json_after_value(json *j)
{
    j->want = j->depth ? JSON_WANT_COMMA_OR_END : JSON_WANT_NOTHING;
}

static void json_skip_space(json *j)
{
    reader *r = &j->in;
    while (r->at < r->end && *r->at <= ' ' && read_one_of(r, " \t\r\n"))
        ;
}

static json_kind json_open(json *j, b32 object)
{
    if (j->depth == JSON_DEPTH)
        return json_fail(j, E_JsonTooDeep);
    j->object[++j->depth] = object;
    j->want = JSON_WANT_VALUE_OR_END + (json_want)object;
    return JSON_ARRAY + (json_kind)object;
}

/* Outside all brackets it is no place to shut one. */
static json_kind json_shut(json *j, b32 object)
{
    if (j->want < JSON_WANT_VALUE_OR_END || j->object[j->depth] != object)
        return json_fail(j, E_JsonSyntax);
    invariant(j->depth > 0);
    j->depth--;
    json_after_value(j);
    return JSON_ARRAY_END + (json_kind)object;
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
    str from = S("\"\\/bfnrt"), to = S("\"\\/\b\f\n\r\t");
    u8 c = read_byte(r);
    iz plain = str_find(from, c);
    if (plain >= 0)
        return to.ptr[plain];
    if (c != 'u')
        reader_fail(r, E_JsonEscape);
    u32 unit = json_unit(r);
    if (r->error || unit < 0xd800 || unit > 0xdbff)
        return unit;
    const u8 *behind = r->at; /* a high half: is its low half there? */
    u32 low = str_is(read_bytes(r, 2), "\\u") ? json_unit(r) : 0;
    if (!r->error && low >= 0xdc00 && low <= 0xdfff)
        return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    r->at = behind;
    r->error = E_None;
    return unit;
}

/* Steps over a string behind its opening quote; j->text is what stands between the quotes. */
static void json_string(json *j)
{
    reader *r = &j->in;
    const u8 *start = r->at;
    j->escaped = 0;
    for (u8 c; read_plain(r), (c = reader_peek(r)) != '"' && !r->error;) {
        if (c == '\\') {
            read_byte(r);
            json_escape(r);
            j->escaped = 1;
        } else if (c < ' ') {
            reader_fail(r, reader_left(r) ? E_JsonControl : E_Truncated);
        } else {
            read_utf8(r);
        }
    }
    j->text = (str){start, r->at - start};
    read_byte(r);
}

/* One digit or more. */
static void json_digits(reader *r)
{
    if (!is_digit(reader_peek(r)))
        reader_fail(r, E_JsonNumber);
    while (is_digit(reader_peek(r)))
        read_byte(r);
}

/* number = [ "-" ] int [ frac ] [ exp ], RFC 8259 section 6 */
static json_kind json_number(json *j)
{
    reader *r = &j->in;
    const u8 *start = r->at;
    read_if(r, '-');
    if (!read_if(r, '0'))
        json_digits(r);
    else if (is_digit(reader_peek(r)))
        reader_fail(r, E_JsonNumber);
    if (read_if(r, '.'))
        json_digits(r);
    if (read_one_of(r, "eE")) {
        read_one_of(r, "+-");
        json_digits(r);
    }
    j->text = (str){start, r->at - start};
    return JSON_NUMBER;
}

/* What follows the first letter of true, false or null, whose kinds have the same order. */
static json_kind json_word(json *j, u8 first)
{
    static const char words[][6] = {"true", "false", "null"};
    for (i32 i = 0; i < countof(words); i++) {
        str word = T(words[i]);
        if (first == word.ptr[0] && str_eq(read_bytes(&j->in, word.len - 1), str_from(word, 1)))
            return JSON_TRUE + (json_kind)i;
    }
    return json_fail(j, E_JsonSyntax);
}

static json_kind json_value(json *j)
{
    u8 c = reader_peek(&j->in);
    json_after_value(j);
    if (c == '-' || is_digit(c))
        return json_number(j);
    read_byte(&j->in);
    if (c == '{' || c == '[')
        return json_open(j, c == '{');
    if (c != '"')
        return json_word(j, c);
    json_string(j);
    return JSON_STRING;
}

/* A member's name with the colon behind it. */
static json_kind json_name(json *j)
{
    if (read_byte(&j->in) != '"')
        return json_fail(j, E_JsonSyntax);
    json_string(j);
    json_skip_space(j);
    if (read_byte(&j->in) != ':')
        return json_fail(j, E_JsonSyntax);
    j->want = JSON_WANT_VALUE;
    return JSON_NAME;
}

static json_kind json_token(json *j)
{
    reader *r = &j->in;
    if (j->want == JSON_WANT_NOTHING)
        return reader_left(r) ? json_fail(j, E_JsonTrailing) : JSON_END;
    u8 c = reader_peek(r);
    if (c == '}' || c == ']') {
        read_byte(r);
        return json_shut(j, c == '}');
    }
    if (j->want == JSON_WANT_COMMA_OR_END) {
        if (read_byte(r) != ',')
            return json_fail(j, E_JsonSyntax);
        j->want = j->object[j->depth] ? JSON_WANT_NAME : JSON_WANT_VALUE;
        json_skip_space(j);
    }
    if (!reader_left(r))
        return json_fail(j, j->kind == JSON_END ? E_JsonEmpty : E_Truncated);
    if (j->want == JSON_WANT_NAME || j->want == JSON_WANT_NAME_OR_END)
        return json_name(j);
    return json_value(j);
}

/* The next token. JSON_END is the end of the text, or the first error (j->in.error). */
static json_kind json_next(json *j)
{
    json_skip_space(j);
    json_kind kind = json_token(j);
    if (j->in.error == E_Truncated)
        j->in.error = E_JsonTruncated;
    return j->kind = j->in.error ? JSON_END : kind;
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

/* Steps over the next value; its kind, and in j->text its text where it is not a structure. */
static json_kind json_skip(json *j)
{
    json_kind kind = json_next(j);
    json_skip_rest(j);
    return kind;
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
        return reader_left(&j->in) > 0; /* nothing is left after an error */
    json_next(j);
    return 0;
}

/* The text of a string token, its escapes undone. */
static void json_put_text(writer *w, str raw)
{
    reader r = reader_of(raw);
    while (reader_left(&r)) {
        const u8 *start = r.at;
        read_plain(&r);
        put(w, (str){start, r.at - start});
        if (read_if(&r, '\\'))
            put_utf8(w, json_escape(&r));
        else if (reader_left(&r))
            put_byte(w, read_byte(&r));
    }
}

/* Enters the next value if it is an object, for a walk that json_walk_next is to end; else steps
 * over it and gives false. The paths are those wanted, with blanks between them; none is the
 * beginning of another. */
static b32 json_walk_start(json *j, const char *paths)
{
    if (!json_enter(j, JSON_OBJECT))
        return 0;
    json_walk *walk = j->walk++;
    invariant(j->walk <= j->walks + JSON_WALKS);
    str list = str_of_array(paths, LITERAL_MAX);
    for (walk->count = 0; list.len; walk->count++) {
        invariant(walk->count < JSON_WALK_PATHS);
        walk->wanted[walk->count] = str_cut(&list, ' ');
    }
    walk->seen = 0;
    walk->outside = j->depth - 1;
    walk->here = S("");
    return 1;
}

/* Which of the wanted paths that have not been met a member of this name leads to, as bits: those
 * that end with it and those that go on inside it. */
static u32 json_walk_match(const json_walk *walk, str name)
{
    u32 match = 0;
    iz start = walk->here.len, end = start + name.len;
    for (i32 i = 0; i < walk->count; i++) {
        str path = walk->wanted[i];
        if (path.len < end || (path.len > end && path.ptr[end] != '.') || (walk->seen >> i & 1))
            continue;
        if (str_eq(str_span(path, start, end), name) && str_starts(path, walk->here))
            match |= 1u << i;
    }
    return match && str_find(name, '.') < 0 ? match : 0; /* a dot in a name does not lead on */
}

/* The index of the path that ends with the member that has just been named. -1 if none does: then
 * its value is stepped over, or entered if it is an object and paths go on inside it. */
static i32 json_walk_in(json *j, json_walk *walk)
{
    u8 room[JSON_NAME_MAX];
    str name = j->text;
    if (j->escaped) {
        writer w = writer_of(room, countof(room));
        json_put_text(&w, name);
        name = w.error ? S("") : written(&w);
    }
    u32 match = json_walk_match(walk, name);
    if (!match) {
        json_skip(j);
        return -1;
    }
    i32 first = __builtin_ctz(match);
    str path = walk->wanted[first];
    iz end = walk->here.len + name.len;
    if (path.len > end && json_enter(j, JSON_OBJECT)) {
        walk->here = str_span(path, 0, end + 1);
        return -1;
    }
    walk->seen |= match;
    return path.len > end ? -1 : first;
}

/* Leaves the inner object; no path that leads there counts again. */
static void json_walk_out(json_walk *walk)
{
    str path = walk->here;
    iz start = path.len - 1, end = start;
    while (start && path.ptr[start - 1] != '.')
        start--;
    walk->here = str_span(path, 0, start);
    walk->seen |= json_walk_match(walk, str_span(path, start, end));
}

/* Moves to the next member that is wanted and gives the index of its path; the caller then reads
 * its value. All other members are stepped over, and so is each one that repeats a name of its
 * object: the first one counts, whatever its value. -1 when the object, and so the walk, has been
 * left. */
static i32 json_walk_next(json *j)
{
    json_walk *walk = j->walk - 1;
    for (;;) {
        json_kind kind = json_next(j);
        if (kind == JSON_OBJECT_END && j->depth > walk->outside) {
            json_walk_out(walk);
        } else if (kind != JSON_NAME) {
            j->walk = walk;
            return -1;
        } else {
            i32 found = json_walk_in(j, walk);
            if (found >= 0)
                return found;
        }
    }
}

/* The next value as text, decoded into the arena where it holds an escape. null, like a member
 * that is not there, gives a null pointer; a value of any other kind gives "". */
static str json_text(json *j)
{
    json_kind kind = json_skip(j);
    if (kind == JSON_NULL)
        return (str){0, 0};
    if (kind != JSON_STRING)
        return S("");
    str raw = j->text;
    if (!j->escaped)
        return raw;
    writer w = arena_writer(j->arena, raw.len); /* no escape is shorter than what it stands for */
    json_put_text(&w, raw);
    if (w.error)
        json_fail(j, E_OutOfMemory);
    return arena_keep(j->arena, &w);
}

/* The next value as a whole number up to `max`, or -1 for everything else. */
static i32 json_small(json *j, i32 max)
{
    u64 value;
    return json_skip(j) == JSON_NUMBER && str_to_uint(j->text, (u64)max, &value) ? (i32)value : -1;
}

static b32 json_is_true(json *j)
{
    return json_skip(j) == JSON_TRUE;
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
    u8 last = writer_last(w);
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
    reader r = reader_of(s);
    while (reader_left(&r)) {
        const u8 *start = r.at;
        read_plain(&r);
        put(w, (str){start, r.at - start});
        if (!reader_left(&r))
            return;
        start = r.at;
        u32 c = read_utf8(&r);
        if (r.error) {
            c = 0xfffd;
            r.at = start + 1;
            r.error = E_None;
        }
        if (c == '"' || c == '\\')
            put_byte(w, '\\');
        if (c < ' ') {
            put_text(w, "\\u00");
            put_byte(w, (u8)('0' + (c >> 4)));
            put_hex_digit(w, c);
            continue;
        }
        put_utf8(w, c);
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
    json_put_string(w, str_of_array(name, JSON_NAME_MAX));
    put_byte(w, ':');
}

static void json_put_member(writer *w, const char *name, str value)
{
    json_put_name(w, name);
    json_put_string(w, value);
}

/* ---------------------------------------------------------------------------------------------
 * 6 cryptography
 *
 * SHA-256, SHA-384 and SHA-512 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869) with the labels of
 * TLS 1.3 (RFC 8446 section 7.1), ChaCha20-Poly1305 (RFC 8439), AES-128-GCM and AES-256-GCM
 * (FIPS 197, NIST SP 800-38D), X25519 (RFC 7748), ECDH on P-256, and verification by ECDSA and RSA
 * (see "public keys").
 *
 * Whatever touches a key, a plaintext or a value made of them takes the same path and the same
 * addresses whatever its value is: no branch and no index depends on a secret, only on lengths
 * and on names of algorithms. The exceptions are verdicts that are public: aead_open's, and
 * x25519_public's invariant.
 * The processor's multiplication is taken to need the same time for all operands, as it does on
 * the x86_64 and aarch64 processors that this program is for. What was secret is wiped before a
 * function returns; copies that a compiler spills to its own stack slots cannot be reached from
 * C and are not.
 *
 * AES has no portable form here: tables leak through the cache and bit slicing is slow. Without
 * the processor's instructions the caller uses ChaCha20-Poly1305. SHA-256 has both forms, since a
 * handshake hashes some 120 blocks.
 *
 * Left out as TLS 1.3 with these suites does not need them: nonces other than 12 bytes, tags other
 * than 16, AES-192, GMAC, other curves of RFC 7748.
 * ------------------------------------------------------------------------------------------ */

/* ---- words and constant time ---- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are loaded as they lie");

static u32 load32(const u8 *p)
{
    u32 v;
    __builtin_memcpy(&v, p, 4);
    return v;
}

static u64 load64(const u8 *p)
{
    u64 v;
    __builtin_memcpy(&v, p, 8);
    return v;
}

static u128 load128(const u8 *p)
{
    u128 v;
    __builtin_memcpy(&v, p, 16);
    return v;
}

static void store32(u8 *p, u32 v)
{
    __builtin_memcpy(p, &v, 4);
}

static void store64(u8 *p, u64 v)
{
    __builtin_memcpy(p, &v, 8);
}

static u64 load64_be(const u8 *p)
{
    return __builtin_bswap64(load64(p));
}

static u32 rotate32(u32 v, i32 right)
{
    return v >> right | v << (32 - right);
}

static u64 rotate64(u64 v, i32 right)
{
    return v >> right | v << (64 - right);
}

/* All ones for 1, zero for 0. The empty asm hides from the compiler that there are two values
 * only, lest it make a branch or a choice between two addresses of what the mask selects. */
static u64 ct_mask(u64 bit)
{
    __asm__("" : "+r"(bit));
    return 0 - bit;
}

/* 1 for zero, 0 for all else: only of zero have both ~v and v - 1 the top bit. */
static u64 ct_is_zero(u64 v)
{
    return (~v & (v - 1)) >> 63;
}

/* 1 when the n bytes at a and at b are the same, else 0. */
static u64 ct_equal(const u8 *a, const u8 *b, iz n)
{
    u64 differ = 0;
    for (iz i = 0; i < n; i++)
        differ |= (u64)(a[i] ^ b[i]);
    return ct_is_zero(differ);
}

/* Of two secrets one is chosen by these two alone; elsewhere a mask of ct_mask keeps or drops one
 * number. They are functions of their own, so that `make ct` can look at their machine code: one
 * branch, for the loop, and no conditional move. */

/* r = other for n > 0 limbs where the mask is all ones; where it is zero, r stays. */
static __attribute__((noinline)) void ct_select(u64 *r, const u64 *other, u64 mask, iz n)
{
    iz i = 0;
    do
        r[i] ^= (r[i] ^ other[i]) & mask;
    while (++i != n);
}

/* a and b change places, n > 0 limbs, where the mask is all ones. */
static __attribute__((noinline)) void ct_swap(u64 *a, u64 *b, u64 mask, iz n)
{
    iz i = 0;
    do {
        u64 differ = (a[i] ^ b[i]) & mask;
        a[i] ^= differ;
        b[i] ^= differ;
    } while (++i != n);
}

/* ---- the processor's own instructions ----
 *
 * The compilers' headers for those of SHA-256, AES and GHASH need libc's (gcc) or a whole file
 * compiled for them (clang), so they are written as assembly: on vector registers, no memory, no
 * flags. What SHA_ and AES_ROUND do is said where they are used. AESENC adds a round key last and
 * AESE first; with a key of zeros both leave it to the C, in FIPS 197's order. pair_add is r = a +
 * b + carry for two limbs of the numbers below, pair_sub r = a - b - borrow; they give the carry
 * and the borrow. On x86_64 gcc has to be told to let these stay flags, and on both to let one pass
 * through the three limbs of a sum of products, %0 to %2, to which two are added, %3 and %4, or
 * from which they are taken.
 */

#ifdef __x86_64__
static inline __attribute__((always_inline)) u64 pair_add(u64 *r, const u64 *a, u64 b0, u64 b1,
                                                          u64 carry)
{
    u8 middle = __builtin_ia32_addcarryx_u64((u8)carry, a[0], b0, &r[0]);
    return __builtin_ia32_addcarryx_u64(middle, a[1], b1, &r[1]);
}

#ifdef __clang__
#define SUBTRACT_BORROW __builtin_ia32_subborrow_u64
#else
#define SUBTRACT_BORROW __builtin_ia32_sbb_u64
#endif
static inline __attribute__((always_inline)) u64 pair_sub(u64 *r, const u64 *a, const u64 *b,
                                                          u64 borrow)
{
    u8 middle = SUBTRACT_BORROW((u8)borrow, a[0], b[0], &r[0]);
    return SUBTRACT_BORROW(middle, a[1], b[1], &r[1]);
}

#define THREE_ADD "add %3, %0\n\tadc %4, %1\n\tadc $0, %2"
#define THREE_SUB "sub %3, %0\n\tsbb %4, %1\n\tsbb $0, %2"
#define VEC_IN "x"
#define VEC_INOUT "+x"
#define VEC_ADDEND "+Yz" /* xmm0, which SHA256RNDS2 takes without naming it */
#define SHA_BYTES "pshufb %1, %0"
#define SHA_WORDS                                                                  \
    "sha256msg1 %2, %0\n\tmovdqa %4, %1\n\tpalignr $4, %3, %1\n\tpaddd %1, %0\n\t" \
    "sha256msg2 %4, %0"
#define SHA_CONSTANTS "shufps $0xdd, %1, %0"
#define SHA_ROUNDS "sha256rnds2 %2, %0, %1\n\tpshufd $14, %2, %2\n\tsha256rnds2 %2, %1, %0"
#define SHA_ORDER "\5\4\1\0\7\6\3\2"
#define AES_ROUND "aesenc %1, %0"
#define AES_LAST_ROUND "aesenclast %1, %0"
#define CLMUL_LOW "pclmulqdq $0x00, %1, %0"
#define CLMUL_HIGH "pclmulqdq $0x11, %1, %0"
#else
/* Of the two additions at most one carries, since a + b + 1 < 2^129. The empty asm keeps gcc from
 * making a branch of what carries. */
static inline __attribute__((always_inline)) u64 pair_add(u64 *r, const u64 *a, u64 b0, u64 b1,
                                                          u64 carry)
{
    u128 sum;
    u64 out = __builtin_add_overflow((u128)a[1] << 64 | a[0], (u128)b1 << 64 | b0, &sum);
    out += __builtin_add_overflow(sum, carry, &sum);
    __asm__("" : "+r"(out));
    r[0] = (u64)sum;
    r[1] = (u64)(sum >> 64);
    return out;
}

/* a + (R - 1 - b) + 1 for R = 2^128, which carries just if there is no borrow: of the borrow of a
 * u128 gcc would make a comparison and a branch. */
static inline __attribute__((always_inline)) u64 pair_sub(u64 *r, const u64 *a, const u64 *b,
                                                          u64 borrow)
{
    return pair_add(r, a, ~b[0], ~b[1], borrow ^ 1) ^ 1;
}

#define THREE_ADD "adds %0, %0, %3\n\tadcs %1, %1, %4\n\tadc %2, %2, xzr"
#define THREE_SUB "subs %0, %0, %3\n\tsbcs %1, %1, %4\n\tsbc %2, %2, xzr"
#define VEC_IN "w"
#define VEC_INOUT "+w"
#define VEC_ADDEND "+w"
#define SHA_BYTES "rev32 %0.16b, %0.16b"
#define SHA_CONSTANTS "uzp2 %0.4s, %0.4s, %1.4s"
#define SHA_WORDS ".arch armv8-a+crypto\n\tsha256su0 %0.4s, %2.4s\n\tsha256su1 %0.4s, %3.4s, %4.4s"
#define SHA_ROUNDS                                                              \
    ".arch armv8-a+crypto\n\tmov %3.16b, %0.16b\n\tsha256h %q0, %q1, %2.4s\n\t" \
    "sha256h2 %q1, %q3, %2.4s"
#define SHA_ORDER "\0\1\2\3\4\5\6\7"
#define AES_ROUND ".arch armv8-a+crypto\n\taese %0.16b, %1.16b\n\taesmc %0.16b, %0.16b"
#define AES_LAST_ROUND ".arch armv8-a+crypto\n\taese %0.16b, %1.16b"
#define CLMUL_LOW ".arch armv8-a+crypto\n\tpmull %0.1q, %0.1d, %1.1d"
#define CLMUL_HIGH ".arch armv8-a+crypto\n\tpmull2 %0.1q, %0.2d, %1.2d"
#endif

typedef u64 vec128 __attribute__((vector_size(16)));
typedef u32 vec128_u32 __attribute__((vector_size(16)));

static vec128 vec128_load(const void *p)
{
    vec128 v;
    __builtin_memcpy(&v, p, 16);
    return v;
}

/* ---- SHA-2 ---- */

/* The last is the first by the processor's own instructions; the caller has asked os_cpu for them.
 * The low two bits say which hash it is. */
typedef enum { SHA256, SHA384, SHA512, SHA256_CPU = 4 } hash_id;

enum { HASH_MAX = 64, HASH_BLOCK_MAX = 128 };

/* May be copied by assignment, to fork a transcript. */
typedef struct {
    hash_id id;
    u64 length;               /* bytes taken so far */
    u64 state[8];             /* SHA-256: the low halves; what gathers above them is not read */
    u8 block[HASH_BLOCK_MAX]; /* the last, unfinished block */
} hash;

/* The square roots of the first 16 primes: the first 64 bits behind the point. SHA-512 begins
 * with the first 8, SHA-256 with their upper halves, SHA-384 with the other 8 (FIPS 180-4, 5.3). */
static const u64 sha_start[16] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
    0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939,
    0x67332667ffc00b31, 0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4,
};

/* The cube roots of the first 80 primes, likewise. SHA-256 uses the upper halves of the first 64
 * (FIPS 180-4, 4.2.2 and 4.2.3). */
static const u64 sha_round[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
    0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
    0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
    0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
    0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
    0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
    0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
    0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
    0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
    0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
    0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
    0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

/* One block (FIPS 180-4, 6.2.2). The names are the standard's. Its eight variables, a to h, stand
 * in a row at v. In a round the new e takes the place of d and the new a one in front of the row,
 * which makes the old ones those behind. The room, wiped by its owner, ends with the first row. */
static void sha256_block(u64 state[8], const u8 *block, u32 w[2 * 64 + 8])
{
    u32 *v = w + 2 * 64;
    for (iz t = 0; t < 16; t++)
        w[t] = __builtin_bswap32(load32(block + 4 * t));
    for (iz t = 16; t < 64; t++) {
        u32 x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (rotate32(x, 7) ^ rotate32(x, 18) ^ x >> 3) + w[t - 7] +
               (rotate32(y, 17) ^ rotate32(y, 19) ^ y >> 10);
    }
    for (iz i = 0; i < 8; i++)
        v[i] = (u32)state[i];
    u32 a = v[0], e = v[4];
    for (iz t = 0; t < 64; t++) {
        u32 b = v[1], c = v[2], f = v[5], g = v[6], t1 = v[7] + w[t] + (u32)(sha_round[t] >> 32);
        t1 += (rotate32(e, 6) ^ rotate32(e, 11) ^ rotate32(e, 25)) + (g ^ (e & (f ^ g)));
        v[3] = e = v[3] + t1;
        t1 += (rotate32(a, 2) ^ rotate32(a, 13) ^ rotate32(a, 22)) + ((a & b) ^ (c & (a ^ b)));
        *--v = a = t1;
    }
    for (iz i = 0; i < 8; i++)
        state[i] += v[i];
}

/* The same by the processor's instructions, four words and four rounds at a time. Words t to t + 3
 * are made of those from 16, 12, 8 and 4 before. The eight variables stand in two vectors, in
 * SHA_ORDER. (Intel's manual, volume 2, SHA256MSG1 and following; Arm's, SHA256H and following) */
static void sha256_block_cpu(u64 state[8], const u8 *block, u32 w[64 + 8])
{
    const vec128 swapped = {0x0405060700010203, 0x0c0d0e0f08090a0b};
    vec128 more;
    u32 *room = w + 64;
    for (iz i = 0; i < 8; i++)
        room[i] = (u32)state[(u8)SHA_ORDER[i]];
    vec128 v = vec128_load(room), u = vec128_load(room + 4);
    for (iz t = 0; t < 64; t += 4) {
        vec128 words = vec128_load(t < 16 ? block + 4 * t : (const u8 *)(w + t - 16));
        if (t < 16)
            __asm__(SHA_BYTES : VEC_INOUT(words) : VEC_IN(swapped));
        else
            __asm__(SHA_WORDS
                    : "+&" VEC_IN(words), "=&" VEC_IN(more)
                    : VEC_IN(vec128_load(w + t - 12)), VEC_IN(vec128_load(w + t - 8)),
                      VEC_IN(vec128_load(w + t - 4)));
        __builtin_memcpy(w + t, &words, 16);
        vec128 add = vec128_load(sha_round + t);
        __asm__(SHA_CONSTANTS : VEC_INOUT(add) : VEC_IN(vec128_load(sha_round + t + 2)));
        add = (vec128)((vec128_u32)add + (vec128_u32)words);
        __asm__(SHA_ROUNDS : VEC_INOUT(v), VEC_INOUT(u), VEC_ADDEND(add), "=&" VEC_IN(more));
    }
    __builtin_memcpy(room, &v, 16);
    __builtin_memcpy(room + 4, &u, 16);
    for (iz i = 0; i < 8; i++)
        state[(u8)SHA_ORDER[i]] += room[i];
}

/* And 6.4.2. */
static void sha512_block(u64 state[8], const u8 *block, u64 w[2 * 80 + 8])
{
    u64 *v = w + 2 * 80;
    for (iz t = 0; t < 16; t++)
        w[t] = load64_be(block + 8 * t);
    for (iz t = 16; t < 80; t++) {
        u64 x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (rotate64(x, 1) ^ rotate64(x, 8) ^ x >> 7) + w[t - 7] +
               (rotate64(y, 19) ^ rotate64(y, 61) ^ y >> 6);
    }
    for (iz i = 0; i < 8; i++)
        v[i] = state[i];
    u64 a = v[0], e = v[4];
    for (iz t = 0; t < 80; t++) {
        u64 b = v[1], c = v[2], f = v[5], g = v[6], t1 = v[7] + w[t] + sha_round[t];
        t1 += (rotate64(e, 14) ^ rotate64(e, 18) ^ rotate64(e, 41)) + (g ^ (e & (f ^ g)));
        v[3] = e = v[3] + t1;
        t1 += (rotate64(a, 28) ^ rotate64(a, 34) ^ rotate64(a, 39)) + ((a & b) ^ (c & (a ^ b)));
        *--v = a = t1;
    }
    for (iz i = 0; i < 8; i++)
        state[i] += v[i];
}

/* The bytes of a digest: 32, 48 or 64, in the order of hash_id. */
static iz hash_size(hash_id id)
{
    return 32 + 16 * (iz)(id & 3);
}

static iz hash_block_size(hash_id id)
{
    return (id & 3) == SHA256 ? 64 : 128;
}

static void hash_block(hash *h, const u8 *block)
{
    union {
        u32 cpu[64 + 8];
        u32 narrow[2 * 64 + 8];
        u64 wide[2 * 80 + 8];
    } room;
    iz used = sizeof room.wide;
    if (h->id == SHA256_CPU) {
        sha256_block_cpu(h->state, block, room.cpu);
        used = sizeof room.cpu;
    } else if (h->id == SHA256) {
        sha256_block(h->state, block, room.narrow);
        used = sizeof room.narrow;
    } else {
        sha512_block(h->state, block, room.wide);
    }
    wipe(&room, used);
}

/* Begins a digest. */
static void hash_init(hash *h, hash_id id)
{
    h->id = id;
    h->length = 0;
    for (iz i = 0; i < 8; i++)
        h->state[i] = sha_start[id == SHA384 ? i + 8 : i] >> (hash_block_size(id) == 64 ? 32 : 0);
}

/* Takes the next bytes of the message, which may come in any pieces. */
static void hash_add(hash *h, str data)
{
    iz size = hash_block_size(h->id), used = (iz)h->length & (size - 1);
    h->length += (u64)data.len;
    while (used + data.len >= size) {
        iz n = size - used;
        if (used)
            copy(h->block + used, data.ptr, n);
        hash_block(h, used ? h->block : data.ptr);
        data = str_span(data, n, data.len);
        used = 0;
    }
    copy(h->block + used, data.ptr, data.len);
}

/* The digest of what was added: hash_size bytes at out. Wipes h. (FIPS 180-4, 5.1) */
static void hash_end(hash *h, u8 out[HASH_MAX])
{
    iz size = hash_block_size(h->id), used = (iz)h->length & (size - 1);
    h->block[used++] = 0x80;
    if (used > size - size / 8) {
        wipe(h->block + used, size - used);
        hash_block(h, h->block);
        used = 0;
    }
    wipe(h->block + used, size - used);
    store64(h->block + size - 8, __builtin_bswap64(h->length << 3));
    hash_block(h, h->block);
    for (iz i = 0; i < hash_size(h->id) / 4; i++) {
        u64 word = size == 64 ? h->state[i] : h->state[i / 2] >> (i % 2 ? 0 : 32);
        store32(out + 4 * i, __builtin_bswap32((u32)word));
    }
    wipe(h, sizeof *h);
}

/* The digest of data in one go: hash_size bytes at out. */
static void hash_of(hash_id id, str data, u8 out[HASH_MAX])
{
    hash h;
    hash_init(&h, id);
    hash_add(&h, data);
    hash_end(&h, out);
}

/* ---- HMAC and HKDF ---- */

/* A key as HMAC takes it: zeros behind it up to a block; a longer one is hashed first. */
static void hmac_key(u8 padded[HASH_BLOCK_MAX], hash_id id, str key)
{
    wipe(padded, HASH_BLOCK_MAX);
    if (key.len > hash_block_size(id))
        hash_of(id, key, padded);
    else
        copy(padded, key.ptr, key.len);
}

/* hash_size bytes at out, of the n parts one behind the other; out may lie over them and the key.
 * The second hash is of the first one's digest, and turns the key's flipped bits from 0x36 to 0x5c.
 * (RFC 2104) */
static void hmac_parts(hash_id id, str key, const str *parts, iz n, u8 out[HASH_MAX])
{
    u8 pad[HASH_BLOCK_MAX];
    str digest = {out, hash_size(id)};
    u8 flip = 0x36;
    hmac_key(pad, id, key);
    for (iz round = 0; round < 2; round++) {
        hash h;
        hash_init(&h, id);
        for (iz i = 0; i < HASH_BLOCK_MAX; i++)
            pad[i] ^= flip;
        hash_add(&h, (str){pad, hash_block_size(id)});
        for (; n; n--, parts++)
            hash_add(&h, *parts);
        hash_end(&h, out);
        parts = &digest;
        n = 1;
        flip ^= 0x5c;
    }
    wipe(pad, sizeof pad);
}

/* hash_size bytes at out, which may lie over key or msg. */
static void hmac(hash_id id, str key, str msg, u8 out[HASH_MAX])
{
    hmac_parts(id, key, &msg, 1, out);
}

/* hash_size bytes at out, which may lie over salt or ikm. An empty salt stands for a digest's
 * length of zeros. (RFC 5869, 2.2) */
static void hkdf_extract(hash_id id, str salt, str ikm, u8 out[HASH_MAX])
{
    hmac(id, salt, ikm, out);
}

/* n bytes at out, at most 255 digests; out may lie over prk, but not over info. (RFC 5869, 2.3) */
static void hkdf_expand(hash_id id, str prk, str info, u8 *out, iz n)
{
    iz size = hash_size(id);
    invariant(0 <= n && n <= 255 * size);
    u8 block[HASH_BLOCK_MAX], digest[HASH_MAX], count = 0;
    str parts[3] = {{digest, 0}, info, {&count, 1}}, key = {block, hash_block_size(id)};
    hmac_key(block, id, prk);
    for (iz at = 0; at < n; at += size) {
        count++;
        hmac_parts(id, key, parts, countof(parts), digest);
        parts[0].len = size;
        copy(out + at, digest, n - at < size ? n - at : size);
    }
    wipe(digest, sizeof digest);
    wipe(block, sizeof block);
}

/* HKDF-Expand-Label: n bytes at out, which may lie over secret. The label comes without its
 * "tls13 " and has at most LABEL_MAX bytes, the context at most CONTEXT_MAX. (RFC 8446, 7.1) */
static void hkdf_expand_label(hash_id id, str secret, str label, str context, u8 *out, iz n)
{
    u8 info[2 + 1 + 6 + LABEL_MAX + 1 + CONTEXT_MAX];
    writer w = writer_of(info, sizeof info);
    invariant(label.len <= LABEL_MAX && context.len <= CONTEXT_MAX);
    put_be(&w, (u64)n, 2);
    put_be(&w, (u64)(6 + label.len), 1);
    put(&w, S("tls13 "));
    put(&w, label);
    put_be(&w, (u64)context.len, 1);
    put(&w, context);
    invariant(!w.error);
    hkdf_expand(id, secret, written(&w), out, n);
}

/* ---- AEAD: what the ciphers share ---- */

typedef enum { AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305 } aead_id;

enum { AEAD_TAG = 16, AEAD_NONCE = 12 };

/* An expanded key. Its owner wipes it. */
typedef struct {
    aead_id id;
    u32 key[60];     /* AES: 11 or 15 round keys of 4 words; ChaCha20: the first 12 of its block */
    u64 hash_key[2]; /* AES: see gcm_init */
} aead;

/* The rest of a message, below 16 bytes, with zeros behind it up to a block; nothing of nothing.
 * Not inlined: two loops end with it. */
static __attribute__((noinline)) str padded_rest(u8 pad[16], str rest)
{
    wipe(pad, 16);
    copy(pad, rest.ptr, rest.len);
    return (str){pad, rest.len ? 16 : 0};
}

/* ---- ChaCha20-Poly1305 ---- */

/* One block of the key stream. (RFC 8439, 2.3) */
static void chacha20_block(const aead *a, const u8 nonce[AEAD_NONCE], u32 counter, u32 x[16])
{
    u32 start[16];
    copy((u8 *)start, (const u8 *)a->key, 48);
    start[12] = counter;
    copy((u8 *)(start + 13), nonce, AEAD_NONCE);
    copy((u8 *)x, (const u8 *)start, sizeof start);
    for (iz i = 0; i < 80; i++) {
        /* Quarter i of a round on a column; of every second round, on a diagonal. */
        iz slant = i >> 2 & 1, j = i & 3;
        u32 *pb = x + 4 + ((j + slant) & 3), *pc = x + 8 + ((j + 2 * slant) & 3);
        u32 *pd = x + 12 + ((j + 3 * slant) & 3);
        u32 va = x[j], vb = *pb, vc = *pc, vd = *pd;
        va += vb, vd = rotate32(vd ^ va, 16);
        vc += vd, vb = rotate32(vb ^ vc, 20);
        va += vb, vd = rotate32(vd ^ va, 24);
        vc += vd, vb = rotate32(vb ^ vc, 25);
        x[j] = va, *pb = vb, *pc = vc, *pd = vd;
    }
    for (iz i = 0; i < 16; i++)
        x[i] += start[i];
    wipe(start, sizeof start);
}

/* The sum h = low + 2^128 top modulo 2^130 - 5, not always reduced: top <= 4 between two blocks. */
typedef struct {
    u128 low;
    u64 top, r0, r1;
} poly1305;

/* Adds data, zeros behind it up to whole blocks, to the sum. (RFC 8439, 2.5 and 2.8)
 *
 * h has the words h0, h1 and top. r0, r1 < 2^60 by their clamping, and 4 divides r1. As 2^130 is 5,
 * what r1 lifts to 2^128 comes down as s = r1 * 5/4 < 2^61. With top <= 6 (4 from before, the
 * block's own bit and a carry) the words of the product and their carries are
 *   d0 = h0 r0 + h1 s                          < 2^124 + 2^125                < 2^126
 *   d1 = h0 r1 + h1 r0 + top s + d0 / 2^64     < 2^124 + 2^124 + 2^64 + 2^62  < 2^126
 *   d2 = top r0 + d1 / 2^64                    < 2^63 + 2^62                  < 2^64
 * What stands above 2^130 comes back times 5: 5 d2 / 4 < 2^64, as d2 < 3 * 2^62. */
static void poly1305_add(poly1305 *p, str data)
{
    u128 low = p->low;
    u64 top = p->top, r0 = p->r0, r1 = p->r1, s = r1 + (r1 >> 2);
    u8 pad[16];
    for (; data.len; data = padded_rest(pad, data))
        for (; data.len >= 16; data.ptr += 16, data.len -= 16) {
            u128 block = load128(data.ptr);
            low += block;
            top += (u64)1 + (low < block);
            u64 h0 = (u64)low, h1 = (u64)(low >> 64);
            u128 d0 = (u128)h0 * r0 + (u128)h1 * s;
            u128 d1 = (u128)h0 * r1 + (u128)h1 * r0 + top * s + (u64)(d0 >> 64);
            u64 d2 = top * r0 + (u64)(d1 >> 64), back = (d2 >> 2) * 5;
            low = (d1 << 64 | (u64)d0) + back;
            top = (d2 & 3) + (low < back);
        }
    p->low = low;
    p->top = top;
}

/* The sum reduced, plus `last`, modulo 2^128. The sum is below twice 2^130 - 5. If adding 5 takes
 * it to 2^130, it was not reduced, and what then stands below 2^130 is the remainder. Of that, as
 * of the tag, only what is below 2^128 counts. */
static void poly1305_end(poly1305 *p, u128 last, u8 tag[AEAD_TAG])
{
    u64 over = (p->top + (p->low + 5 < 5)) >> 2;
    u128 low = p->low + 5 * over + last;
    __builtin_memcpy(tag, &low, AEAD_TAG);
    wipe(p, sizeof *p);
}

/* The tag over aad and ciphertext, under the first half of the stream's block 0: r, clamped, and
 * the last summand. (RFC 8439, 2.6 and 2.8) */
static void chacha20_tag(const u8 key[32], str aad, str data, u8 tag[AEAD_TAG])
{
    u8 lengths[16];
    poly1305 p = {.r0 = load64(key) & 0x0ffffffc0fffffff,
                  .r1 = load64(key + 8) & 0x0ffffffc0ffffffc};
    poly1305_add(&p, aad);
    poly1305_add(&p, data);
    store64(lengths, (u64)aad.len);
    store64(lengths + 8, (u64)data.len);
    poly1305_add(&p, (str){lengths, sizeof lengths});
    poly1305_end(&p, load128(key + 16), tag);
}

/* ---- AES-GCM ---- */

/* SubBytes, ShiftRows and MixColumns of the state, then AddRoundKey. (FIPS 197, 5.1) */
static vec128 aes_round(vec128 state, vec128 key)
{
    __asm__(AES_ROUND : VEC_INOUT(state) : VEC_IN((vec128){0, 0}));
    return state ^ key;
}

/* The last round, which has no MixColumns. */
static vec128 aes_last_round(vec128 state, vec128 key)
{
    __asm__(AES_LAST_ROUND : VEC_INOUT(state) : VEC_IN((vec128){0, 0}));
    return state ^ key;
}

/* The product without carries of the two low halves. */
static vec128 clmul_low(vec128 a, vec128 b)
{
    __asm__(CLMUL_LOW : VEC_INOUT(a) : VEC_IN(b));
    return a;
}

/* And of the two high halves. */
static vec128 clmul_high(vec128 a, vec128 b)
{
    __asm__(CLMUL_HIGH : VEC_INOUT(a) : VEC_IN(b));
    return a;
}

/* The S-box on the four bytes of w: in a state of four equal columns ShiftRows changes nothing. */
static u32 aes_sub_word(u32 w)
{
    u64 twice = (u64)w << 32 | w;
    return (u32)aes_last_round((vec128){twice, twice}, (vec128){0, 0})[0];
}

/* The round keys. Words lie in memory as FIPS 197 (5.2) numbers their bytes, first byte lowest,
 * so its RotWord is a rotation to the right. words is Nk: 4 or 8, the second branch for 8 only. */
static void aes_expand(u32 round_key[60], const u8 *key, iz words)
{
    u32 rcon = 1;
    copy((u8 *)round_key, key, 4 * words);
    for (iz i = words; i < 4 * (words + 7); i++) {
        u32 t = round_key[i - 1];
        if (i % words == 0) {
            t = rotate32(aes_sub_word(t), 8) ^ rcon;
            rcon = rcon << 1 ^ (rcon >> 7) * 0x11b;
        } else if (i % words == 4) {
            t = aes_sub_word(t);
        }
        round_key[i] = round_key[i - words] ^ t;
    }
}

/* Four blocks, side by side: a round needs several cycles, but one can begin in each. */
static void aes_encrypt(const aead *a, vec128 b[4])
{
    const u32 *key = a->key, *last = key + (a->id == AES_128_GCM ? 40 : 56);
    vec128 k = vec128_load(key), b0 = b[0] ^ k, b1 = b[1] ^ k, b2 = b[2] ^ k, b3 = b[3] ^ k;
    for (key += 4; key < last; key += 4) {
        k = vec128_load(key);
        b0 = aes_round(b0, k);
        b1 = aes_round(b1, k);
        b2 = aes_round(b2, k);
        b3 = aes_round(b3, k);
    }
    k = vec128_load(last);
    b[0] = aes_last_round(b0, k);
    b[1] = aes_last_round(b1, k);
    b[2] = aes_last_round(b2, k);
    b[3] = aes_last_round(b3, k);
}

/* Four blocks of the key stream from this counter on: 1 is the tag's, the data begins at 2. */
static void gcm_stream(const aead *a, const u8 nonce[AEAD_NONCE], u32 counter, u8 out[64])
{
    vec128 b[4];
    for (u32 i = 0; i < 4; i++) {
        u64 tail = load32(nonce + 8) | (u64)__builtin_bswap32(counter + i) << 32;
        b[i] = (vec128){load64(nonce), tail};
    }
    aes_encrypt(a, b);
    __builtin_memcpy(out, b, 64);
    wipe(b, sizeof b);
}

/* GHASH numbers the bits of a block from the first byte's top bit. With the bytes reversed that is
 * POLYVAL of RFC 8452, whose products carry a factor x^-128, under a hash key times x (appendix A):
 * shifted up by one, modulo x^128 + x^127 + x^126 + x^121 + 1. */
static void gcm_init(aead *a)
{
    vec128 b[4] = {{0, 0}};
    aes_encrypt(a, b);
    u64 high = __builtin_bswap64(b[0][0]), low = __builtin_bswap64(b[0][1]);
    u64 over = ct_mask(high >> 63);
    a->hash_key[0] = low << 1 ^ (over & 1);
    a->hash_key[1] = (high << 1 | low >> 63) ^ (over & 0xc200000000000000);
    wipe(b, sizeof b);
}

/* x times y times x^-128. The product of four halves has 256 bits: low, high. To divide it by x^64,
 * its low 64 bits times the polynomial are added, which clears them: the polynomial is 1 modulo
 * x^64, and x^57 + x^62 + x^63 + x^64 above. Twice. */
static vec128 gcm_product(vec128 x, vec128 y)
{
    vec128 fold = {0xc200000000000000, 0}, crossed = {y[1], y[0]};
    vec128 middle = clmul_low(x, crossed) ^ clmul_high(x, crossed);
    vec128 up = {0, middle[0]}, down = {middle[1], 0};
    vec128 low = clmul_low(x, y) ^ up, high = clmul_high(x, y) ^ down;
    low = (vec128){low[1], low[0]} ^ clmul_low(low, fold);
    low = (vec128){low[1], low[0]} ^ clmul_low(low, fold);
    return low ^ high;
}

/* Adds data, zeros behind it up to whole blocks, to the sum. */
static vec128 gcm_hash(vec128 sum, vec128 key, str data)
{
    u8 pad[16];
    for (; data.len; data = padded_rest(pad, data))
        for (; data.len >= 16; data.ptr += 16, data.len -= 16)
            sum = gcm_product(sum ^ (vec128){load64_be(data.ptr + 8), load64_be(data.ptr)}, key);
    return sum;
}

/* The tag over aad and ciphertext, under the stream's block for counter 1. (SP 800-38D, 7.1 steps 4
 * to 6) */
static void gcm_tag(const aead *a, const u8 mask[16], str aad, str data, u8 tag[AEAD_TAG])
{
    vec128 key = vec128_load(a->hash_key);
    vec128 sum = gcm_hash(gcm_hash((vec128){0, 0}, key, aad), key, data);
    sum = gcm_product(sum ^ (vec128){(u64)data.len << 3, (u64)aad.len << 3}, key);
    store64(tag, __builtin_bswap64(sum[1]) ^ load64(mask));
    store64(tag + 8, __builtin_bswap64(sum[0]) ^ load64(mask + 8));
}

/* ---- AEAD ---- */

/* The bytes of a key: 16 or 32. */
static iz aead_key_size(aead_id id)
{
    return id == AES_128_GCM ? 16 : 32;
}

/* Takes aead_key_size bytes at key. The AES ones only where the processor has the instructions:
 * the caller has asked os_cpu. */
static void aead_init(aead *a, aead_id id, const u8 *key)
{
    a->id = id;
    if (id == CHACHA20_POLY1305) {
        copy((u8 *)a->key, S("expand 32-byte k").ptr, 16);
        copy((u8 *)(a->key + 4), key, 32);
        return;
    }
    aes_expand(a->key, key, aead_key_size(id) / 4);
    gcm_init(a);
}

/* 64 bytes of the key stream. Those of the data begin with part 1; part 0 is the tag's, with
 * counter 0 for ChaCha20 (RFC 8439, 2.6) and, in its last 16 bytes, 1 for GCM. */
static void aead_stream(const aead *a, const u8 nonce[AEAD_NONCE], u32 part, u32 block[16])
{
    if (a->id == CHACHA20_POLY1305)
        chacha20_block(a, nonce, part, block);
    else
        gcm_stream(a, nonce, 4 * part - 2, (u8 *)block);
}

/* Encrypts or decrypts: the key stream of either cipher, 64 bytes at a time. */
static void aead_xor(const aead *a, const u8 nonce[AEAD_NONCE], u8 *data, iz n)
{
    u32 block[16];
    u8 *stream = (u8 *)block;
    invariant(0 <= n && n <= ((iz)1 << 36) - 32); /* GCM's limit, SP 800-38D, 5.2.1.1 */
    for (iz at = 0; at < n; at += 64) {
        iz left = n - at < 64 ? n - at : 64, i = 0;
        aead_stream(a, nonce, (u32)(at / 64) + 1, block);
        for (; i + 8 <= left; i += 8)
            store64(data + at + i, load64(data + at + i) ^ load64(stream + i));
        for (; i < left; i++)
            data[at + i] ^= stream[i];
    }
    wipe(block, sizeof block);
}

static void aead_tag(const aead *a, const u8 nonce[AEAD_NONCE], str aad, str data, u8 tag[AEAD_TAG])
{
    u32 block[16];
    const u8 *stream = (const u8 *)block;
    aead_stream(a, nonce, 0, block);
    if (a->id == CHACHA20_POLY1305)
        chacha20_tag(stream, aad, data, tag);
    else
        gcm_tag(a, stream + 48, aad, data, tag);
    wipe(block, sizeof block);
}

/* Encrypts the n bytes at data in place and gives the tag over them and aad. A nonce serves once
 * under one key. (RFC 8439, 2.8; SP 800-38D, 7.1) */
static void aead_seal(const aead *a, const u8 nonce[AEAD_NONCE], str aad, u8 *data, iz n,
                      u8 tag[AEAD_TAG])
{
    aead_xor(a, nonce, data, n);
    aead_tag(a, nonce, aad, (str){data, n}, tag);
}

/* Checks the tag, then decrypts the n bytes at data in place. E_AeadTag: data is as it was. */
static err aead_open(const aead *a, const u8 nonce[AEAD_NONCE], str aad, u8 *data, iz n,
                     const u8 tag[AEAD_TAG])
{
    u8 right[AEAD_TAG];
    aead_tag(a, nonce, aad, (str){data, n}, right);
    u64 good = ct_equal(right, tag, AEAD_TAG);
    wipe(right, sizeof right);
    if (!good)
        return E_AeadTag;
    aead_xor(a, nonce, data, n);
    return E_None;
}

/* ---- public keys ----
 *
 * ECDH on P-256 and X25519, ECDSA verification on P-256 and P-384 (FIPS 186-5, SP 800-186, SEC 1)
 * and RSA verification by PKCS #1 v1.5 and PSS (RFC 8017). There is no signing and no decryption,
 * so that the only secrets here are those of ECDH. p256_public, p256_ecdh, x25519 and all that they
 * call take the same path and the same addresses whatever the secret is, and wipe what came of it;
 * all else works on public data and says where its time varies.
 *
 * A big number is an array of 64-bit limbs, the lowest first. All modular products are
 * Montgomery's: of a and b comes a * b / R mod m, with R = 2^(64 * limbs). A number x is "in
 * Montgomery form" as x * R mod m; the product of two such is such again, and the product of one
 * such and a plain number is plain. Products are summed by columns: column k holds the products of
 * limbs i and k - i in a sum of 192 bits, and its lowest limb is final once the column is complete.
 * That takes one addition with carry per product and no carry along a row. The fields of the two
 * curves have products of their own, unrolled, which use the form of their primes; orders of curves
 * and RSA moduli share one that works for every odd modulus.
 *
 * A field element is always reduced: 0 <= x < p. A point is in Jacobian coordinates, that is
 * (X / Z^2, Y / Z^3), all three in Montgomery form; Z = 0 is the point at infinity.
 *
 * Left out: compressed points (RFC 8446 section 4.2.8.2 forbids them; the CA/Browser Forum's
 * requirements rule them out in certificates), P-521, RSA-PSS with a salt of another length than
 * the digest's (RFC 8446 section 4.2.3), RSA keys under 2,048 bits (too weak) and over 4,096 (a
 * hostile chain shall not buy much work with a long key).
 */

/* ---- limbs ---- */

enum {
    FIELD_LIMBS = 6,               /* a number of P-384 */
    BIG_LIMBS = RSA_BITS_MAX / 64, /* a number of RSA */
    COLUMN_STEP = 2,               /* products that column_long takes at a time ... */
    BIG_PAD = COLUMN_STEP - 1,     /* ... so it may read this many limbs of zero too far */
    BIG_ROOM = BIG_LIMBS + 2 * BIG_PAD
};

static str str_without_zeros(str s)
{
    while (s.len && !s.ptr[0])
        s = str_span(s, 1, s.len);
    return s;
}

/* The number from a big-endian str of at most 8 * n bytes. */
static void limbs_read(u64 *r, iz n, str s)
{
    reader in = reader_of(s);
    for (iz i = n - 1; i >= 0; i--) {
        iz here = reader_left(&in) - 8 * i;
        r[i] = read_be(&in, here > 0 ? here : 0);
    }
}

/* The low n bytes of a, big-endian. */
static void limbs_write(u8 *out, iz n, const u64 *a)
{
    for (iz i = 0; i < n; i++)
        out[n - 1 - i] = (u8)(a[i >> 3] >> (8 * (i & 7)));
}

/* Number of the highest bit that is set, plus one. Time varies. */
static iz limbs_bits(const u64 *a, iz n)
{
    while (n && !a[n - 1])
        n--;
    return n ? 64 * n - __builtin_clzll(a[n - 1]) : 0;
}

/* The w < 64 bits of a from bit i on; may touch the limb behind the one that holds bit i. */
static u64 limbs_field(const u64 *a, iz i, iz w)
{
    u64 low = a[i >> 6] >> (i & 63), high = a[(i >> 6) + 1] << 1 << (63 - (i & 63));
    return (low | high) & (((u64)1 << w) - 1);
}

/* Whether a < b. Time varies. */
static b32 limbs_less(const u64 *a, const u64 *b, iz n)
{
    while (n > 1 && a[n - 1] == b[n - 1])
        n--;
    return a[n - 1] < b[n - 1];
}

/* a = a * 2^left, or floor(a / 2^-left), for left from -63 to 63 but 0. What leaves a is lost. */
static void limbs_shift(u64 *a, iz n, iz left)
{
    if (left > 0)
        for (iz i = n - 1; i >= 0; i--)
            a[i] = a[i] << left | (i ? a[i - 1] >> (64 - left) : 0);
    else
        for (iz i = 0; i < n; i++)
            a[i] = a[i] >> -left | (i + 1 < n ? a[i + 1] << (64 + left) : 0);
}

/* a = a + (b ^ flip) + (flip & 1); gives the carry. b may be a. Constant time. */
static u64 limbs_add_flipped(u64 *a, const u64 *b, iz n, u64 flip)
{
    u64 carry = flip & 1;
    for (iz i = 0; i < n; i++) {
        u128 sum = (u128)a[i] + (b[i] ^ flip) + carry;
        a[i] = (u64)sum;
        carry = (u64)(sum >> 64);
    }
    return carry;
}

/* a = a + b; gives the carry. b may be a. */
static u64 limbs_add(u64 *a, const u64 *b, iz n)
{
    return limbs_add_flipped(a, b, n, 0);
}

/* a = a - b, which is a + (R - 1 - b) + 1 and carries just if a >= b; gives the borrow. */
static u64 limbs_sub(u64 *a, const u64 *b, iz n)
{
    return limbs_add_flipped(a, b, n, ~(u64)0) ^ 1;
}

/* ---- sums of columns ----
 *
 * Always inlined, here and in the fields below: at -Oz a compiler would call these, and the sums
 * would leave the registers. */

/* No column here has more than 2 * 64 + 2 products, each below 2^128, so that `high` stays below
 * 2^8. */
typedef struct {
    u64 low, middle, high;
} column;

static inline __attribute__((always_inline)) void column_add(column *c, u128 x)
{
    __asm__(THREE_ADD
            : "+&r"(c->low), "+r"(c->middle), "+r"(c->high)
            : "r"((u64)x), "r"((u64)(x >> 64))
            : "cc");
}

static inline __attribute__((always_inline)) void column_sub(column *c, u128 x)
{
    __asm__(THREE_SUB
            : "+&r"(c->low), "+r"(c->middle), "+r"(c->high)
            : "r"((u64)x), "r"((u64)(x >> 64))
            : "cc");
}

static inline __attribute__((always_inline)) void column_join(column *c, const column *x)
{
    column_add(c, (u128)x->middle << 64 | x->low);
    c->high += x->high;
}

/* Gives the lowest limb and turns the rest into the start of the next column. */
static inline __attribute__((always_inline)) u64 column_next(column *c)
{
    u64 limb = c->low;
    *c = (column){c->middle, c->high, 0};
    return limb;
}

/* The same for a column that may be negative, with its sign in `high`. */
static inline __attribute__((always_inline)) u64 column_next_signed(column *c)
{
    u64 limb = c->low;
    *c = (column){c->middle, c->high, (u64)((i64)c->high >> 63)};
    return limb;
}

/* Adds a[0] * b[0] + a[1] * b[-1] + ... of n products, 1 to 6. n is a constant wherever this is
 * used: only the sums remain. They are made before the column takes part, since its own sum waits
 * for the column before. */
static inline __attribute__((always_inline)) void column_products(column *c, const u64 *a,
                                                                  const u64 *b, iz n)
{
    u128 first = (u128)a[0] * b[0];
    column sum = {(u64)first, (u64)(first >> 64), 0};
    if (n > 1)
        column_add(&sum, (u128)a[1] * b[-1]);
    if (n > 2)
        column_add(&sum, (u128)a[2] * b[-2]);
    if (n > 3)
        column_add(&sum, (u128)a[3] * b[-3]);
    if (n > 4)
        column_add(&sum, (u128)a[4] * b[-4]);
    if (n > 5)
        column_add(&sum, (u128)a[5] * b[-5]);
    column_join(c, &sum);
}

/* ---- the fields of P-256 and P-384 ---- */

typedef enum { P256, P384 } curve_id;

/* In Jacobian coordinates, in Montgomery form. */
typedef struct {
    u64 x[FIELD_LIMBS], y[FIELD_LIMBS], z[FIELD_LIMBS];
} point;

typedef struct {
    u64 prime[FIELD_LIMBS];
    point base; /* its z is R - prime, which is 1 in Montgomery form */
    /* R^2 mod prime: a product with it puts into Montgomery form; b of y^2 = x^3 - 3x + b, in
     * Montgomery form */
    u64 square_b[2][FIELD_LIMBS];
    u64 order[FIELD_LIMBS];
} curve;

/* SP 800-186, sections 3.2.1.3 and 3.2.1.4 */
static const curve curves[2] = {
    [P256] =
        {
            .prime = {0xffffffffffffffff, 0x00000000ffffffff, 0x0000000000000000,
                      0xffffffff00000001},
            .base =
                {{0x79e730d418a9143c, 0x75ba95fc5fedb601, 0x79fb732b77622510, 0x18905f76a53755c6},
                 {0xddf25357ce95560a, 0x8b4ab8e4ba19e45c, 0xd2e88688dd21f325, 0x8571ff1825885d85},
                 {0x0000000000000001, 0xffffffff00000000, 0xffffffffffffffff, 0x00000000fffffffe}},
            .square_b = {{0x0000000000000003, 0xfffffffbffffffff, 0xfffffffffffffffe,
                          0x00000004fffffffd},
                         {0xd89cdf6229c4bddf, 0xacf005cd78843090, 0xe5a220abf7212ed6,
                          0xdc30061d04874834}},
            .order = {0xf3b9cac2fc632551, 0xbce6faada7179e84, 0xffffffffffffffff,
                      0xffffffff00000000},
        },
    [P384] =
        {
            .prime = {0x00000000ffffffff, 0xffffffff00000000, 0xfffffffffffffffe,
                      0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff},
            .base = {{0x3dd0756649c0b528, 0x20e378e2a0d6ce38, 0x879c3afc541b4d6e,
                      0x6454868459a30eff, 0x812ff723614ede2b, 0x4d3aadc2299e1513},
                     {0x23043dad4b03a4fe, 0xa1bfa8bf7bb4a9ac, 0x8bade7562e83b050,
                      0xc6c3521968f4ffd9, 0xdd8002263969a840, 0x2b78abc25a15c5e9},
                     {0xffffffff00000001, 0x00000000ffffffff, 0x0000000000000001}},
            .square_b = {{0xfffffffe00000001, 0x0000000200000000, 0xfffffffe00000000,
                          0x0000000200000000, 0x0000000000000001, 0x0000000000000000},
                         {0x081188719d412dcc, 0xf729add87a4c32ec, 0x77f2209b1920022e,
                          0xe3374bee94938ae2, 0xb62b21f41f022094, 0xcd08114b604fbff9}},
            .order = {0xecec196accc52973, 0x581a0db248b0a77a, 0xc7634d81f4372ddf,
                      0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff},
        },
};

static const u64 field_zero[FIELD_LIMBS] = {0};
static const u64 field_plain_one[FIELD_LIMBS] = {1}; /* times it: out of Montgomery form */

static iz curve_limbs(curve_id c)
{
    return 4 + 2 * (iz)c;
}

/* r = a + (b & mask) for n limbs, 4 or 6; gives the carry. r may be a or b. */
static inline __attribute__((always_inline)) u64 field_sum(u64 *r, const u64 *a, const u64 *b,
                                                           u64 mask, iz n)
{
    u64 carry = pair_add(r, a, b[0] & mask, b[1] & mask, 0);
    carry = pair_add(r + 2, a + 2, b[2] & mask, b[3] & mask, carry);
    if (n == 6)
        carry = pair_add(r + 4, a + 4, b[4] & mask, b[5] & mask, carry);
    return carry;
}

/* r = a + top * R mod p, for a + top * R < 2p. Adding R - p = base.z subtracts p and carries out of
 * the n limbs, by itself or with top, just if the number was p at least; else p is put back. Both
 * carries together would mean a number of R + p > 2p. */
static inline __attribute__((always_inline)) void field_reduce(u64 *r, const u64 *a, u64 top,
                                                               const curve *f, iz n)
{
    u64 s[FIELD_LIMBS];
    u64 carry = top + field_sum(s, a, f->base.z, ~(u64)0, n);
    field_sum(r, s, f->prime, ct_mask(carry ^ 1), n);
}

/* r = a - b mod p, for -p <= a - b < p: where that borrows, p is added. r may be a or b. */
static inline __attribute__((always_inline)) void
field_difference(u64 *r, const u64 *a, const u64 *b, const curve *f, iz n)
{
    u64 s[FIELD_LIMBS];
    u64 borrow = pair_sub(s + 2, a + 2, b + 2, pair_sub(s, a, b, 0));
    if (n == 6)
        borrow = pair_sub(s + 4, a + 4, b + 4, borrow);
    field_sum(r, s, f->prime, ct_mask(borrow), n);
}

/* The same for curve c. There is no sum: a + b is a - (0 - b). Not inlined: it is called for each
 * step of a formula. */
static __attribute__((noinline)) void field_sub(curve_id c, u64 *r, const u64 *a, const u64 *b)
{
    if (c == P256)
        field_difference(r, a, b, &curves[P256], 4);
    else
        field_difference(r, a, b, &curves[P384], 6);
}

/* r = a / 2 mod p: that of a + p for an odd a, with its carry. */
static void field_half(curve_id c, u64 *r, const u64 *a)
{
    u64 s[FIELD_LIMBS], odd = ct_mask(a[0] & 1);
    iz n = curve_limbs(c);
    u64 carry = c == P256 ? field_sum(s, a, curves[P256].prime, odd, 4)
                          : field_sum(s, a, curves[P384].prime, odd, 6);
    for (iz i = 0; i < n; i++)
        r[i] = s[i] >> 1 | (i + 1 < n ? s[i + 1] : carry) << 63;
}

/* r = a * b / R mod p for p = 2^256 - 2^224 + 2^192 + 2^96 - 1, p = -1 mod 2^64. The multiple of p
 * that clears the lowest limb m of a column is m * p, and
 *     m + m * p = m * 2^96 + m * (2^64 - 2^32 + 1) * 2^192.
 * So m is dropped, m * 2^32 goes to the next column and m * (2^64 - 2^32 + 1) to the third from
 * here. The sum of one of each is at most
 *     (2^96 - 2^32) + (2^128 - 2^96 + 2^32 - 1) < 2^128.
 * All m together are M < R: before the last step comes (ab + Mp) / R < (p^2 + Rp) / R < 2p. */
static __attribute__((noinline)) void p256_mul(u64 *r, const u64 *a, const u64 *b)
{
    const u64 third = 0xffffffff00000001;
    column c = {0, 0, 0};
    u64 m0, m1, m2, m3, t[4];
    column_products(&c, a, b, 1);
    m0 = column_next(&c);
    column_products(&c, a, b + 1, 2);
    column_add(&c, (u128)m0 << 32);
    m1 = column_next(&c);
    column_products(&c, a, b + 2, 3);
    column_add(&c, (u128)m1 << 32);
    m2 = column_next(&c);
    column_products(&c, a, b + 3, 4);
    column_add(&c, ((u128)m2 << 32) + (u128)m0 * third);
    m3 = column_next(&c);
    column_products(&c, a + 1, b + 3, 3);
    column_add(&c, ((u128)m3 << 32) + (u128)m1 * third);
    t[0] = column_next(&c);
    column_products(&c, a + 2, b + 3, 2);
    column_add(&c, (u128)m2 * third);
    t[1] = column_next(&c);
    column_products(&c, a + 3, b + 3, 1);
    column_add(&c, (u128)m3 * third);
    t[2] = column_next(&c);
    t[3] = column_next(&c);
    field_reduce(r, t, c.low, &curves[P256], 4);
}

/* For p = 2^384 - 2^128 - 2^96 + 2^32 - 1: makes the lowest limb x of a column zero by adding
 * n * p, and drops it; gives n. p = 2^32 - 1 mod 2^64 and (2^32 - 1)(2^32 + 1) = -1, so n = x +
 * 2^32 x mod 2^64. With s = 2^32 x mod 2^64, k the carry of x + s, and u the upper half of n,
 *     n = x + s - 2^64 k, 2^32 n = 2^64 u + s, so x + n * (2^32 - 1) = 2^64 (u + k).
 * The next column is given that u + k, less 2^32 n for the term -2^96 of p, less the n of the
 * column before, `before`, for its -2^128. n * 2^384 is left to the end. What is taken off is not
 * negative: u + k <= 2^64 u + s, as k = 1 needs an s. It is below 2^96 + 2^64. */
static inline __attribute__((always_inline)) u64 p384_clear(column *c, u64 before)
{
    u64 x = column_next_signed(c), s = x << 32, n = x + s, k = n < s, u = n >> 32;
    column_sub(c, ((u128)u << 64 | s) + before - (u + k));
    return n;
}

/* r = a * b / R mod p for that p. All n together are N < R; without N * 2^384, t is (ab + Np) / R -
 * N, with its sign in c, and with it below (p^2 + Rp) / R < 2p. */
static __attribute__((noinline)) void p384_mul(u64 *r, const u64 *a, const u64 *b)
{
    column c = {0, 0, 0};
    u64 n[6], t[6];
    column_products(&c, a, b, 1);
    n[0] = p384_clear(&c, 0);
    column_products(&c, a, b + 1, 2);
    n[1] = p384_clear(&c, n[0]);
    column_products(&c, a, b + 2, 3);
    n[2] = p384_clear(&c, n[1]);
    column_products(&c, a, b + 3, 4);
    n[3] = p384_clear(&c, n[2]);
    column_products(&c, a, b + 4, 5);
    n[4] = p384_clear(&c, n[3]);
    column_products(&c, a, b + 5, 6);
    n[5] = p384_clear(&c, n[4]);
    column_products(&c, a + 1, b + 5, 5);
    t[0] = column_next_signed(&c);
    column_sub(&c, n[5]);
    column_products(&c, a + 2, b + 5, 4);
    t[1] = column_next_signed(&c);
    column_products(&c, a + 3, b + 5, 3);
    t[2] = column_next_signed(&c);
    column_products(&c, a + 4, b + 5, 2);
    t[3] = column_next_signed(&c);
    column_products(&c, a + 5, b + 5, 1);
    t[4] = column_next_signed(&c);
    t[5] = column_next_signed(&c);
    u64 top = c.low + field_sum(t, t, n, ~(u64)0, 6);
    field_reduce(r, t, top, &curves[P384], 6);
}

/* The operations of the field of curve c; r may be a or b. The two products stay functions of their
 * own: gcc would merge what they have in common and keep it in memory. */

static void field_mul(curve_id c, u64 *r, const u64 *a, const u64 *b)
{
    if (c == P256)
        p256_mul(r, a, b);
    else
        p384_mul(r, a, b);
}

/* r = 1 / a = a^(p - 2), and 0 of 0; the exponent is public. r is not a. */
static void field_invert(curve_id c, u64 *r, const u64 *a)
{
    copy((u8 *)r, (const u8 *)a, FIELD_LIMBS * 8);
    for (iz i = 64 * curve_limbs(c) - 2; i >= 0; i--) {
        u64 exponent = curves[c].prime[i >> 6] - (i < 64 ? 2 : 0);
        field_mul(c, r, r, r);
        if (exponent >> (i & 63) & 1)
            field_mul(c, r, r, a);
    }
}

/* ---- points ---- */

/* A running sum of points, the next point to go into it, and room for what comes up on the way,
 * kept together so that one wipe reaches all of it. */
typedef struct {
    curve_id curve;
    union {
        struct {
            point sum, item;
            u64 t[5][FIELD_LIMBS];
            u64 zero[FIELD_LIMBS]; /* stays so: for differences from it */
        };
        u64 limb[12 * FIELD_LIMBS]; /* the same */
    };
} adder;

enum {
    NAF_POINTS = 8, /* a point's multiples by 1, 3, ... 15, for ECDSA */
    KEY_POINTS = 16 /* and to 31, for ECDH */
};

/* One step of a formula: r = a op b, product or difference, or the half of a, for numbers of an
 * adder, by their first limbs in it. */
enum { MUL, SUB, HALF };
enum {
    X1 = 0,
    Y1 = 6,
    Z1 = 12,
    X2 = 18,
    Y2 = 24,
    Z2 = 30,
    T0 = 36,
    T1 = 42,
    T2 = 48,
    T3 = 54,
    T4 = 60,
    ZERO = 66
};
typedef struct {
    u8 op, r, a, b;
} formula_step;

static void adder_run(adder *a, const formula_step *s, iz n)
{
    u64 *limb = a->limb;
    for (; n; n--, s++) {
        u64 *r = limb + s->r, *x = limb + s->a, *y = limb + s->b;
        if (s->op == MUL)
            field_mul(a->curve, r, x, y);
        else if (s->op == SUB)
            field_sub(a->curve, r, x, y);
        else
            field_half(a->curve, r, x);
    }
}

/* sum = 2 * sum:
 *     A = 3/2 (X - Z^2)(X + Z^2), U = Y^2, B = U X,
 *     X' = A^2 - 2B, Y' = A (B - X') - U^2, Z' = YZ.
 * This is the usual formula for a = -3 with half its Z'. It holds for infinity, Z = 0, too; no
 * point has Y = 0, since the orders are odd. */
static const formula_step double_steps[] = {
    {MUL, T0, Z1, Z1},   {MUL, Z1, Z1, Y1},   {SUB, T1, X1, T0}, /* Z', X - Z^2 */
    {SUB, T2, ZERO, X1}, {SUB, T2, T2, T0},   {MUL, T1, T1, T2}, /* -2/3 A */
    {HALF, T2, T1, T1},  {SUB, T0, ZERO, T1}, {SUB, T0, T0, T2}, /* A */
    {MUL, Y1, Y1, Y1},   {MUL, T1, Y1, X1},   {MUL, Y1, Y1, Y1}, /* U, B, U^2 */
    {MUL, X1, T0, T0},   {SUB, X1, X1, T1},   {SUB, X1, X1, T1}, /* X' */
    {SUB, T1, T1, X1},   {MUL, T1, T1, T0},   {SUB, Y1, T1, Y1}, /* Y' */
};

static void adder_double(adder *a)
{
    adder_run(a, double_steps, countof(double_steps));
}

/* sum = sum + item, neither of them infinity.
 *     U1 = X1 Z2^2, U2 = X2 Z1^2, S1 = Y1 Z2^3, S2 = Y2 Z1^3,
 *     H = U2 - U1, R = S2 - S1, V = U1 H^2,
 *     X3 = R^2 - H^3 - 2V, Y3 = R (V - X3) - S1 H^3, Z3 = Z1 Z2 H.
 * H is zero if sum = -item, for which Z3 = 0 is right, and if sum = item. Then R is zero as well
 * and the result is (0, 0, 0): the caller has to see to that, or to show that it cannot occur. */
static const formula_step add_steps[] = {
    {MUL, T0, Z2, Z2}, {MUL, X1, X1, T0}, /* U1 */
    {MUL, T0, T0, Z2}, {MUL, Y1, Y1, T0}, /* S1: steps up to here are idle if Z2 = 1, */
    {MUL, T0, Z1, Z1}, {MUL, T1, X2, T0}, /* U2 */
    {MUL, T0, T0, Z1}, {MUL, T2, Y2, T0}, /* S2 */
    {SUB, T1, T1, X1}, {SUB, T2, T2, Y1}, /* H, R */
    {MUL, Z1, Z1, T1}, {MUL, T3, T1, T1}, {MUL, T4, X1, T3}, /* V */
    {MUL, T3, T3, T1},                                       /* H^3 */
    {MUL, X1, T2, T2}, {SUB, X1, X1, T3}, {SUB, X1, X1, T4}, {SUB, X1, X1, T4}, {SUB, T4, T4, X1},
    {MUL, T4, T4, T2}, {MUL, Y1, Y1, T3}, {SUB, Y1, T4, Y1}, {MUL, Z1, Z1, Z2}, /* and this one */
};
enum { ADD_IDLE_FIRST = 4, ADD_IDLE = 5 };

static void adder_add_distinct(adder *a)
{
    adder_run(a, add_steps, countof(add_steps));
}

/* Numbers of P-256 have limbs of zero behind their four. Time varies. */
static b32 field_is_zero(const u64 *a)
{
    return limbs_bits(a, FIELD_LIMBS) == 0;
}

/* sum = sum + item, or sum - item, for any sum and an item that is not infinity; with `affine` its
 * z is 1. Time varies. */
static void adder_add(adder *a, b32 minus, b32 affine)
{
    if (minus)
        field_sub(a->curve, a->item.y, field_zero, a->item.y);
    if (field_is_zero(a->sum.z)) {
        a->sum = a->item;
        return;
    }
    if (affine)
        adder_run(a, add_steps + ADD_IDLE_FIRST, countof(add_steps) - ADD_IDLE);
    else
        adder_add_distinct(a);
    if (field_is_zero(a->sum.z) && field_is_zero(a->sum.x)) {
        a->sum = a->item;
        adder_double(a);
    }
}

/* The first n, up to KEY_POINTS, of the multiples of p by 1, 3, ... 31, p not infinity. None of the
 * sums is of a point and itself or its negative, since 2 is not one of those multiples and 33 is
 * below the orders. */
static void adder_multiples(adder *a, point *multiple, iz n, const point *p)
{
    a->sum = *p;
    adder_double(a);
    a->item = a->sum;
    multiple[0] = a->sum = *p;
    for (iz i = 1; i < n; i++) {
        adder_add_distinct(a);
        multiple[i] = a->sum;
    }
}

/* A public point: 4, x, y (SEC 1, section 2.3.4), on the curve, coordinates below p. Else
 * E_PointInvalid. Both curves have prime order: no further check of the group is due. */
static err point_read(curve_id c, point *p, str s)
{
    static const formula_step equation[] = {
        {MUL, X1, X1, T0}, {MUL, Y1, Y1, T0}, /* into Montgomery form */
        {MUL, T2, X1, X1}, {SUB, T2, T2, Z1}, {SUB, T2, T2, Z1}, {SUB, T2, T2, Z1},
        {MUL, T2, T2, X1}, {MUL, T3, Y1, Y1}, {SUB, T3, T3, T1}, {SUB, T3, T3, T2},
    };
    const curve *f = &curves[c];
    iz n = curve_limbs(c);
    if (s.len != 1 + 16 * n || s.ptr[0] != 4)
        return E_PointInvalid;
    adder a = {.curve = c, .sum = f->base};
    limbs_read(a.sum.x, n, str_span(s, 1, 1 + 8 * n));
    limbs_read(a.sum.y, n, str_span(s, 1 + 8 * n, s.len));
    if (!limbs_less(a.sum.x, f->prime, n) || !limbs_less(a.sum.y, f->prime, n))
        return E_PointInvalid;
    copy((u8 *)a.t, (const u8 *)f->square_b, sizeof f->square_b);
    adder_run(&a, equation, countof(equation));
    *p = a.sum;
    return field_is_zero(a.t[3]) ? E_None : E_PointInvalid;
}

/* ---- ECDH on P-256 ---- */

/* item = multiple[i], in constant time: all of them are read. */
static void adder_take_secret(adder *a, const point multiple[KEY_POINTS], u64 i)
{
    for (u64 j = 0; j < KEY_POINTS; j++)
        ct_select(a->limb + X2, (const u64 *)(const void *)&multiple[j], ct_mask(ct_is_zero(i ^ j)),
                  3 * FIELD_LIMBS);
}

/* sum = k * p for odd k below the order n. k is the sum of d[i] * 32^i, i from 0 to 51, each d[i]
 * odd and from -31 to 31: with k[i] = floor(k / 32^i) | 1 and v the 5 bits of k from bit 5i + 1 on,
 * d[i] is 2v - 31 and k[i] = 32 * k[i + 1] + d[i]; k[51] = 1. So there is a point to add in every
 * step, to 32 * k[i + 1] * p, which gives k[i] * p, 0 < k[i] <= k < n.
 * - It is never the negative of that sum, as k[i] is not 0 mod n.
 * - It is never that sum: d[i] = 32 * k[i + 1] mod n, and not equal as |d[i]| < 32, would make the
 *   latter at least d[i] + n, and k[i] at least n + 2d[i] >= n - 62. Only k[0] = k is so large.
 *   Then k = n + 2d[0] with d[0] < 0; but d[0] is k mod 64 less 32, hence d[0] = 32 - n mod 64,
 *   which is 15, and no number from -31 to -1 is 15 mod 64. */
static void adder_scale(adder *a, point multiple[KEY_POINTS], const u64 k[FIELD_LIMBS],
                        const point *p)
{
    adder_multiples(a, multiple, KEY_POINTS, p);
    a->sum = *p;
    for (iz i = 50; i >= 0; i--) {
        u64 v = limbs_field(k, 5 * i + 1, 5);
        u64 minus = ct_mask((v >> 4) ^ 1);
        for (iz j = 0; j < 5; j++)
            adder_double(a);
        adder_take_secret(a, multiple, (v ^ minus) & 15);
        field_sub(P256, a->t[0], field_zero, a->item.y);
        ct_select(a->item.y, a->t[0], minus, 4);
        adder_add_distinct(a);
    }
}

/* out = 4, x, y of secret * p, for p on P-256 and secret big-endian, in constant time. For a secret
 * of 0, or not below the order, the work is done with 1 in its place, out is zeros and the error
 * E_KeyScalar. An even k is replaced by n - k, which is odd, and the result's y negated. */
static err p256_scale(u8 out[65], const u8 secret[32], const point *p)
{
    static const formula_step affine[] = {
        {MUL, T1, T1, T0}, {MUL, T1, T1, T0}, {MUL, X1, X1, T1}, /* plain numbers all */
        {MUL, T1, T1, T0}, {MUL, Y1, Y1, T1}, {SUB, T1, ZERO, Y1},
    };
    struct {
        u64 k[FIELD_LIMBS], other[FIELD_LIMBS];
        adder a;
        point multiple[KEY_POINTS];
    } w = {.a.curve = P256};
    const u64 *order = curves[P256].order;
    limbs_read(w.k, 4, (str){secret, 32});
    limbs_read(w.other, 4, (str){secret, 32});
    u64 below = limbs_sub(w.other, order, 4), zero = ct_equal(secret, (const u8 *)field_zero, 32);
    u64 good = ct_mask(below & (zero ^ 1));
    ct_select(w.k, field_plain_one, ~good, 4);
    u64 even = ct_mask((w.k[0] & 1) ^ 1);
    copy((u8 *)w.other, (const u8 *)order, 32);
    limbs_sub(w.other, w.k, 4);
    ct_select(w.k, w.other, even, 4);

    adder_scale(&w.a, w.multiple, w.k, p);
    u64 *x = w.a.sum.x, *y = w.a.sum.y, (*t)[FIELD_LIMBS] = w.a.t;
    field_invert(P256, t[0], w.a.sum.z);
    copy((u8 *)t[1], (const u8 *)field_plain_one, sizeof t[1]);
    adder_run(&w.a, affine, countof(affine));
    ct_select(y, t[1], even, 4);
    out[0] = 4;
    limbs_write(out + 1, 32, x);
    limbs_write(out + 33, 32, y);
    for (iz i = 0; i < 65; i++)
        out[i] &= (u8)good;
    wipe(&w, sizeof w);
    return (err)(E_KeyScalar & ~(u32)good);
}

/* The public point (65 bytes, uncompressed: 4, x, y) of a secret of 32 random bytes, big-endian.
 * E_KeyScalar when the secret is 0 or not below the order, one in 2^32: the connection then
 * fails. Constant time. SEC 1, section 3.2.1; RFC 8446, section 4.2.8.2. */
static err p256_public(u8 out[65], const u8 secret[32])
{
    return p256_scale(out, secret, &curves[P256].base);
}

/* The shared secret, the x coordinate of secret * peer in 32 bytes (RFC 8446, section 7.4.2; SEC 1,
 * section 3.3.1). peer is the other side's point as p256_public makes it. E_PointInvalid if it is
 * not of that form or not on the curve, with nothing written; E_KeyScalar as for p256_public.
 * Constant time but for the verdict on the point. */
static err p256_ecdh(u8 shared[32], const u8 secret[32], str peer)
{
    point p;
    u8 product[65];
    err error = point_read(P256, &p, peer);
    if (error)
        return error;
    error = p256_scale(product, secret, &p);
    copy(shared, product + 1, 32);
    wipe(product, sizeof product);
    return error;
}

/* ---- X25519 ----
 *
 * Elements of the field modulo p = 2^255 - 19 are five limbs of 51 bits, lowest first. What a
 * product gives is *tight*: each limb is below 2^51 + 2^13. A sum or a difference of two tight
 * elements is *loose*: each limb is below 2^53; only a product makes it tight again.
 */

typedef u64 f25519[5];

#define F25519_LIMB (((u64)1 << 51) - 1)

/* Takes a limb from sum, which is below 2^115, and leaves the rest in it. */
static u64 f25519_limb(u128 *sum)
{
    u64 limb = (u64)*sum & F25519_LIMB;
    *sum = (u64)(*sum >> 51);
    return limb;
}

/* Tight product of two loose ones; out may be either. Limbs that pass 2^255 come back times 19:
 * 19 * 2^53 < 2^58. A sum of products is below 77 * 2^106 < 2^113, the last below 5 * 2^106
 * < 2^109; so the carries are below 2^62, the last below 2^58, and 19 * 2^58 < 2^63: times 19 it
 * leaves at most 2^12 to the second limb. (Inlined into a loop it would keep all in memory.) */
static __attribute__((noinline)) void f25519_mul(f25519 out, const f25519 a, const f25519 b)
{
    u64 a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3], a4 = a[4];
    u64 b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3], b4 = b[4];
    u64 c1 = 19 * b1, c2 = 19 * b2, c3 = 19 * b3, c4 = 19 * b4;
    u128 sum = (u128)a0 * b0 + (u128)a1 * c4 + (u128)a2 * c3 + (u128)a3 * c2 + (u128)a4 * c1;
    u64 first = f25519_limb(&sum);
    sum += (u128)a0 * b1 + (u128)a1 * b0 + (u128)a2 * c4 + (u128)a3 * c3 + (u128)a4 * c2;
    u64 second = f25519_limb(&sum);
    sum += (u128)a0 * b2 + (u128)a1 * b1 + (u128)a2 * b0 + (u128)a3 * c4 + (u128)a4 * c3;
    out[2] = f25519_limb(&sum);
    sum += (u128)a0 * b3 + (u128)a1 * b2 + (u128)a2 * b1 + (u128)a3 * b0 + (u128)a4 * c4;
    out[3] = f25519_limb(&sum);
    sum += (u128)a0 * b4 + (u128)a1 * b3 + (u128)a2 * b2 + (u128)a3 * b1 + (u128)a4 * b0;
    out[4] = f25519_limb(&sum);
    first += 19 * (u64)sum;
    out[0] = first & F25519_LIMB;
    out[1] = second + (first >> 51);
}

/* Sum and difference of two tight ones that out is not. To the difference 2p is added so that no
 * limb falls below zero: limbs below 2^52 + 2^51 + 2^13. */
static void f25519_sums(f25519 out[2], const f25519 a, const f25519 b)
{
    for (iz i = 0; i < 5; i++) {
        out[0][i] = a[i] + b[i];
        out[1][i] = a[i] + 2 * F25519_LIMB - b[i];
    }
    out[1][0] -= 36;
}

/* 121665 * a + b, loose, for loose a and tight b: the sums are below 2^71, the carries below 2^20
 * and 19 * 2^20 < 2^25. 121665 is (A - 2) / 4 of the curve. */
static void f25519_combine(f25519 out, const f25519 a, const f25519 b)
{
    u128 sum = 0;
    for (iz i = 0; i < 5; i++) {
        sum += (u128)121665 * a[i] + b[i];
        out[i] = f25519_limb(&sum);
    }
    out[0] += 19 * (u64)sum;
}

/* The u-coordinate in 32 bytes; their top bit is ignored (RFC 7748, 5). */
static void f25519_load(f25519 out, const u8 in[32])
{
    u64 words[5] = {0}; /* limbs_field reads one further */
    copy((u8 *)words, in, 32);
    for (iz i = 0; i < 5; i++)
        out[i] = limbs_field(words, 51 * i, 51);
}

/* The one encoding below p of a tight element, which is reduced in place. It is below 2p: `over` is
 * the carry of adding 19, 1 from p on. Then 19 is added and bit 255 falls away, which subtracts
 * p. */
static void f25519_store(u8 out[32], f25519 a)
{
    u64 over = 19, carry;
    for (iz i = 0; i < 5; i++)
        over = (a[i] + over) >> 51;
    carry = 19 * over;
    for (iz i = 0; i < 5; i++) {
        carry += a[i];
        a[i] = carry & F25519_LIMB;
        carry >>= 51;
    }
    for (iz i = 0; i < 4; i++)
        store64(out + 8 * i, a[i] >> (13 * i) | a[i + 1] << (51 - 13 * i));
}

/* What the ladder and the division work on, in rows of five limbs. The names are RFC 7748's
 * (section 5), a to e for its capitals. A step of the ladder doubles (x2 : z2) and adds it to
 * (x3 : z3), whose difference is x1. */
typedef struct {
    f25519 x1, x2, z2, x3, z3; /* x25519 swaps x2, z2 with x3, z3 as one row */
    f25519 a, b, c, d, e;
} x25519_state;

/* Each step makes a number r of the state from numbers a and b, each by its first limb in it:
 * F_SUMS writes sum and difference in a row, F_COMBINE 121665 * a + b, and any other op that many
 * squarings of a, times b; r is b only where there are no squarings. */
enum { F_MUL = 0, F_SUMS = 254, F_COMBINE = 255 };
enum {
    F_X1 = 0,
    F_X2 = 5,
    F_Z2 = 10,
    F_X3 = 15,
    F_Z3 = 20,
    F_A = 25,
    F_B = 30,
    F_C = 35,
    F_D = 40,
    F_E = 45
};
static const u8 x25519_steps[14][4] = {
    {F_SUMS, F_A, F_X2, F_Z2},   {F_SUMS, F_C, F_X3, F_Z3}, {F_MUL, F_D, F_D, F_A},
    {F_MUL, F_C, F_C, F_B},      {F_MUL, F_A, F_A, F_A},    {F_MUL, F_B, F_B, F_B},
    {F_SUMS, F_X3, F_D, F_C},    {F_MUL, F_X3, F_X3, F_X3}, {F_MUL, F_Z3, F_Z3, F_Z3},
    {F_MUL, F_Z3, F_Z3, F_X1},   {F_MUL, F_X2, F_A, F_B},   {F_SUMS, F_D, F_A, F_B},
    {F_COMBINE, F_Z2, F_E, F_A}, {F_MUL, F_Z2, F_Z2, F_E},
};

/* x2 = x2 / z2, and 0 for z2 = 0: 1 / z2 is z2 to the power p - 2 = 2^255 - 21. The exponents so
 * far are 2, 9, 11, then 2^n - 1 for n = 5, 10, 20, 40, 50, 100, 200 and 250. */
static const u8 x25519_division[13][4] = {
    {F_MUL, F_A, F_Z2, F_Z2}, {2, F_B, F_A, F_Z2},  {F_MUL, F_A, F_A, F_B}, {1, F_C, F_A, F_B},
    {5, F_B, F_C, F_C},       {10, F_D, F_B, F_B},  {20, F_E, F_D, F_D},    {10, F_D, F_E, F_B},
    {50, F_B, F_D, F_D},      {100, F_C, F_B, F_B}, {50, F_B, F_C, F_D},    {5, F_C, F_B, F_A},
    {F_MUL, F_X2, F_X2, F_C},
};

static void x25519_run(x25519_state *state, const u8 (*step)[4], iz n)
{
    u64 *limb = (u64 *)(void *)state;
    for (; n; n--, step++) {
        const u8 *s = *step;
        u64 *r = limb + s[1], *a = limb + s[2], *b = limb + s[3];
        if (s[0] == F_SUMS)
            f25519_sums((f25519 *)(void *)r, a, b);
        else if (s[0] == F_COMBINE)
            f25519_combine(r, a, b);
        else
            for (i32 i = s[0]; i >= 0; i--, a = r)
                f25519_mul(r, a, i ? a : b);
    }
}

/* The shared secret of our 32 secret bytes, any, and the peer's point, any (RFC 7748, 5 and 6.1;
 * not canonical encodings are taken modulo p). E_KeyShareZero when the secret came out as zeros, as
 * it does for the points of small order: TLS refuses that (RFC 8446, 7.4.2). */
static err x25519(u8 shared[32], const u8 secret[32], const u8 peer[32])
{
    x25519_state s = {.x2 = {1}, .z3 = {1}};
    u8 k[32];
    u64 swapped = 0, *pair = (u64 *)(void *)&s + 5; /* from x2 on */
    copy(k, secret, 32);
    k[0] &= 248;
    k[31] = (u8)((k[31] & 127) | 64);
    f25519_load(s.x1, peer);
    copy((u8 *)s.x3, (const u8 *)s.x1, sizeof s.x3);
    for (i32 t = 254; t >= 0; t--) {
        u64 bit = k[t >> 3] >> (t & 7) & 1;
        ct_swap(pair, pair + 10, ct_mask(bit ^ swapped), 10);
        swapped = bit;
        x25519_run(&s, x25519_steps, countof(x25519_steps));
    }
    /* The last bit of k is 0: nothing is left to swap back. */
    x25519_run(&s, x25519_division, countof(x25519_division));
    f25519_store(shared, s.x2);
    wipe(&s, sizeof s);
    wipe(k, sizeof k);
    return (err)(ct_mask(ct_equal(shared, (const u8 *)field_zero, 32)) & E_KeyShareZero);
}

/* Our key share: the point of 32 secret bytes, any. (RFC 7748, 6.1) */
static void x25519_public(u8 share[32], const u8 secret[32])
{
    static const u8 base[32] = {9};
    err zero = x25519(share, secret, base);
    invariant(!zero);
}

/* ---- Montgomery products for any odd modulus ---- */

/* A number of up to BIG_LIMBS limbs with limbs of zero on either side; above its modulus' limbs it
 * is zero too, and the functions that change one leave it so. From here on all is public data:
 * time varies. */
typedef struct {
    union {
        u64 room[BIG_ROOM];
        u8 bytes[8 * BIG_ROOM]; /* for -fstack-protector, which guards arrays of bytes */
    };
} big;

typedef struct {
    big n;
    u64 minus_inverse; /* -1 / n mod 2^64 */
    iz limbs, bits;    /* of n: limbs - 1 < bits / 64 <= limbs, and 4 limbs or more */
} modulus;

static u64 *big_limbs(const big *b)
{
    return (u64 *)b->room + BIG_PAD;
}

/* From a big-endian str of at most 8 * BIG_LIMBS bytes. */
static void big_read(big *b, str s)
{
    *b = (big){0};
    limbs_read(big_limbs(b), (s.len + 7) >> 3, s);
}

/* The rest of m from m->n, an odd number. n0 * n0 = 1 mod 8 for every odd n0, and each step of
 * Newton's doubles the number of bits that are right: 3, 6, 12, 24, 48, 96. */
static void modulus_set(modulus *m)
{
    const u64 *n = big_limbs(&m->n);
    u64 inverse = n[0];
    for (iz i = 0; i < 5; i++)
        inverse *= 2 - n[0] * inverse;
    m->minus_inverse = 0 - inverse;
    m->bits = limbs_bits(n, BIG_LIMBS);
    m->limbs = (m->bits + 63) >> 6;
}

/* Adds a[i] * b[k - i] for `count` numbers i below `end`, and for up to COLUMN_STEP - 1 more below
 * these, where one of the factors is a zero of the room beside a number. */
static inline __attribute__((always_inline)) void column_long(column *sum, const u64 *a,
                                                              const u64 *b, iz k, iz end, iz count)
{
    column c = *sum;
    iz from = end - ((count + COLUMN_STEP - 1) & -COLUMN_STEP);
    const u64 *stop = a + end;
    b += k - from;
    for (a += from; a < stop; a += COLUMN_STEP, b -= COLUMN_STEP) {
        column_add(&c, (u128)a[0] * b[0]);
        column_add(&c, (u128)a[1] * b[-1]);
    }
    *sum = c;
}

/* a = a * b / R mod n, where a * b < n * R. When a and b are one object, each product of two limbs
 * is formed once. Multiples q[k] * n clear the lower half of the columns, and the upper half is
 * (ab + qn) / R < (nR + Rn) / R = 2n. Limb k - limbs of a is written when column k is complete: no
 * later column reads it, save times zero. */
static void mont_product(const modulus *m, big *a, const big *b)
{
    big quotient = {0};
    u64 *q = big_limbs(&quotient), *x = big_limbs(a);
    const u64 *y = big_limbs(b), *n = big_limbs(&m->n);
    column c = {0, 0, 0};
    for (iz k = 0; k < 2 * m->limbs - 1; k++) {
        iz last = k < m->limbs ? k : m->limbs - 1; /* i goes from k - last to last */
        iz count = 2 * last - k + 1, end = last + 1;
        column s = {0, 0, 0};
        if (a == b)
            end = (k + 1) >> 1, count >>= 1;
        column_long(&s, x, y, k, end, count);
        if (a == b) {
            s.high = s.high << 1 | s.middle >> 63;
            s.middle = s.middle << 1 | s.low >> 63;
            s.low <<= 1;
            if ((k & 1) == 0)
                column_add(&s, (u128)x[k >> 1] * x[k >> 1]);
        }
        column_join(&c, &s);
        column_long(&c, q, n, k, last + 1, 2 * last - k + 1);
        if (k < m->limbs) {
            q[k] = c.low * m->minus_inverse;
            column_add(&c, (u128)q[k] * n[0]);
            column_next(&c);
        } else {
            x[k - m->limbs] = column_next(&c);
        }
    }
    x[m->limbs - 1] = column_next(&c);
    if (c.low || !limbs_less(x, n, m->limbs))
        limbs_sub(x, n, m->limbs);
}

/* ---- ECDSA ---- */

/* A number of a signature: 1 to order - 1, else false. */
static b32 scalar_read(const modulus *order, big *k, str s)
{
    s = str_without_zeros(s);
    if (!s.len || s.len > 8 * order->limbs)
        return 0;
    big_read(k, s);
    return limbs_less(big_limbs(k), big_limbs(&order->n), order->limbs);
}

/* k = R / k mod the order, R = 2^B, for 0 < k < order: the Montgomery form of 1 / k. A binary
 * greatest common divisor of u, the order, and v, k, which keeps, with upper or lower signs,
 *     k * x = -+ u * 2^e and k * y = +- v * 2^e mod order, u * y + v * x = order.
 * The last bounds x and y. Each halving of v halves u * v, which begins below 2^(2B) and is 1 in
 * the end, before v = 0: e < 2B. Then u is 1, y the order and 1 / k = -+ x / 2^e, and the
 * Montgomery product of x and 2^(2B - e) is R / k. A number of B bits can be that power if
 * e > B. */
static void scalar_invert(const modulus *order, big *k)
{
    iz n = order->limbs, e = 0;
    const u64 *q = big_limbs(&order->n);
    u64 room[4][FIELD_LIMBS] = {{0}}, *u = room[0], *v = room[1], *x = room[2], *y = room[3];
    b32 minus = 1;
    copy((u8 *)u, (const u8 *)q, n * 8);
    copy((u8 *)v, (const u8 *)big_limbs(k), n * 8);
    y[0] = 1;
    while (v[0] || limbs_bits(v, n)) {
        if (v[0] % 2 == 0) {
            iz zeros = v[0] ? __builtin_ctzll(v[0]) : 63;
            limbs_shift(v, n, -zeros);
            limbs_shift(x, n, zeros);
            e += zeros;
            continue;
        }
        if (limbs_less(v, u, n)) {
            u64 *t = u;
            u = v, v = t;
            t = x, x = y, y = t;
            minus ^= 1;
        }
        limbs_sub(v, u, n);
        limbs_add(y, x, n);
    }
    if (minus) {
        limbs_sub(y, x, n);
        x = y;
    }
    for (; e <= 64 * n; e++)
        if (limbs_add(x, x, n) || !limbs_less(x, q, n))
            limbs_sub(x, q, n);
    big power = {0};
    big_limbs(&power)[(128 * n - e) >> 6] = (u64)1 << ((128 * n - e) & 63);
    copy((u8 *)big_limbs(k), (const u8 *)x, n * 8);
    mont_product(order, k, &power);
}

enum { NAF_MAX = 64 * FIELD_LIMBS + 1, NAF_MINUS = 128 };

/* k < 2^bits as a sum of naf[i] * 2^i, each 0 or odd and below 2^(w - 1) in size (NAF_MINUS set if
 * negative), at most one in w of them not 0: w bits from the first that is not accounted for, in
 * the upper half of their range less 2^w, with that carried on. */
static void scalar_naf(u8 naf[NAF_MAX], const u64 *k, iz bits, iz w)
{
    u64 carry = 0;
    memset(naf, 0, NAF_MAX);
    for (iz i = 0; i <= bits;) {
        if (limbs_field(k, i, 1) == carry) {
            i++;
            continue;
        }
        u64 d = limbs_field(k, i, w) + carry;
        carry = d >> (w - 1);
        naf[i] = (u8)(carry ? NAF_MINUS + ((u64)1 << w) - d : d);
        i += w;
    }
}

/* The base points times 3, 5, ... 15: x and y in Montgomery form. */
static const u64 base_multiples_256[NAF_POINTS - 1][2][4] = {
    {{0xffac3f904eebc127, 0xb027f84a087d81fb, 0x66ad77dd87cbbc98, 0x26936a3fb6ff747e},
     {0xb04c5c1fc983a7eb, 0x583e47ad0861fe1a, 0x788208311a2ee98e, 0xd5f06a29e587cc07}},
    {{0xbe1b8aaec45c61f5, 0x90ec649a94b9537d, 0x941cb5aad076c20c, 0xc9079605890523c8},
     {0xeb309b4ae7ba4f10, 0x73c568efe5eb882b, 0x3540a9877e7a1f68, 0x73a076bb2dd1e916}},
    {{0x0746354ea0173b4f, 0x2bd20213d23c00f7, 0xf43eaab50c23bb08, 0x13ba5119c3123e03},
     {0x2847d0303f5b9d4d, 0x6742f2f25da67bdd, 0xef933bdc77c94195, 0xeaedd9156e240867}},
    {{0x75c96e8f264e20e8, 0xabe6bfed59a7a841, 0x2cc09c0444c8eb00, 0xe05b3080f0c4e16b},
     {0x1eb7777aa45f3314, 0x56af7bedce5d45e3, 0x2b6e019a88b12f1a, 0x086659cdfd835f9b}},
    {{0xea7d260a6245e404, 0x9de407956e7fdfe0, 0x1ff3a4158dac1ab5, 0x3e7090f1649c9073},
     {0x1a7685612b944e88, 0x250f939ee57f61c8, 0x0c0daa891ead643d, 0x68930023e125b88e}},
    {{0xccc425634b2ed709, 0x0e356769856fd30d, 0xbcbcd43f559e9811, 0x738477ac5395b759},
     {0x35752b90c00ee17f, 0x68748390742ed2e3, 0x7cd06422bd1f5bc1, 0xfbc08769c9e7b797}},
    {{0x72bcd8b7bc60055b, 0x03cc23ee56e27e4b, 0xee337424e4819370, 0xe2aa0e430ad3da09},
     {0x40b8524f6383c45d, 0xd766355442a41b25, 0x64efa6de778a4797, 0x2042170a7079adf4}},
};

static const u64 base_multiples_384[NAF_POINTS - 1][2][6] = {
    {{0x05e4dbe6c1dc4073, 0xc54ea9fff04f779c, 0x6b2034e9a170ccf0, 0x3a48d732d51c6c3e,
      0xe36f7e2d263aa470, 0xd283fe68e7c1c3ac},
     {0x7e284821c04ee157, 0x92d789a77ae0e36d, 0x132663c04ef67446, 0x68012d5ad2e1d0b4,
      0xf6db68b15102b339, 0x465465fc983292af}},
    {{0xbb595eba68f1f0df, 0xc185c0cbcc873466, 0x7f1eb1b5293c703b, 0x60db2cf5aacc05e6,
      0xc676b987e2e8e4c6, 0xe1bb26b11d178ffb},
     {0x2b694ba07073fa21, 0x22c16e2e72f34566, 0x80b61b3101c35b99, 0x4b237faf982c0411,
      0xe6c5944024de236d, 0x4db1c9d6e209e4a3}},
    {{0xdf13b9d17d69222b, 0x4ce6415f874774b1, 0x731edcf8211faa95, 0x5f4215d1659753ed,
      0xf893db589db2df55, 0x932c9f811c89025b},
     {0x0996b2207706a61e, 0x135349d5a8641c79, 0x65aad76f50130844, 0x0ff37c0401fff780,
      0xf57f238e693b0706, 0xd90a16b6af6c9b3e}},
    {{0x2f5d200e2353b92f, 0xe35d87293fd7e4f9, 0x26094833a96d745d, 0xdc351dc13cbfff3f,
      0x26d464c6dad54d6a, 0x5cab1d1d53636c6a},
     {0xf2813072b18ec0b0, 0x3777e270d742aa2f, 0x27f061c7033ca7c2, 0xa6ecaccc68ead0d8,
      0x7d9429f4ee69a754, 0xe770633431e8f5c6}},
    {{0xc7708b19b68b8c7d, 0x4532077c44377aba, 0x0dcc67706cdad64f, 0x01b8bf56147b6602,
      0xf8d89885f0561d79, 0x9c19e9fc7ba9c437},
     {0x764eb146bdc4ba25, 0x604fe46bac144b83, 0x3ce813298a77e780, 0x2e070f36fe9e682e,
      0x41821d0c3a53287a, 0x9aa62f9f3533f918}},
    {{0x9b7aeb7e75ccbdfb, 0xb25e28c5f6749a95, 0x8a7a8e4633b7d4ae, 0xdb5203a8d9c1bd56,
      0xd2657265ed22df97, 0xb51c56e18cf23c94},
     {0xf4d394596c3d812d, 0xd8e88f1a87cae0c2, 0x789a2a48cf4d0fe3, 0xb7feac2dfec38d60,
      0x81fdbd1c3b490ec3, 0x4617adb7cc6979e1}},
    {{0x446ad8884709f4a9, 0x2b7210e2ec3dabd8, 0x83ccf19550e07b34, 0x59500917789b3075,
      0x0fc01fd4eb085993, 0xfb62d26f4903026b},
     {0x2309cc9d6fe989bb, 0x61609cbd144bd586, 0x4b23d3a0de06610c, 0xdddc2866d898f470,
      0x8733fc41400c5797, 0x5a68c6fed0bc2716}},
};

/* item = (2i + 1) * base point, 0 <= i < NAF_POINTS, its z 1. */
static void adder_take_base(adder *a, iz i)
{
    b32 p256 = a->curve == P256;
    a->item = curves[a->curve].base;
    for (iz k = 0; i && k < curve_limbs(a->curve); k++) {
        a->item.x[k] = p256 ? base_multiples_256[i - 1][0][k] : base_multiples_384[i - 1][0][k];
        a->item.y[k] = p256 ? base_multiples_256[i - 1][1][k] : base_multiples_384[i - 1][1][k];
    }
}

/* a's sum = j * base point + k * key, for j and k below the order: Shamir's trick with windows of 5
 * bits with a sign. */
static void adder_combine(adder *a, const big *j, const big *k, const point *key)
{
    u8 naf[2][NAF_MAX];
    point multiple[NAF_POINTS];
    iz bits = 64 * curve_limbs(a->curve);
    scalar_naf(naf[0], big_limbs(j), bits, 5);
    scalar_naf(naf[1], big_limbs(k), bits, 5);
    adder_multiples(a, multiple, NAF_POINTS, key);
    a->sum = (point){0};
    for (iz i = bits; i >= 0; i--) {
        adder_double(a);
        for (iz which = 0; which < 2; which++) {
            u8 digit = naf[which][i];
            if (!digit)
                continue;
            iz odd = (digit & ~NAF_MINUS) >> 1;
            if (which)
                a->item = multiple[odd];
            else
                adder_take_base(a, odd);
            adder_add(a, digit >= NAF_MINUS, !which);
        }
    }
}

/* Whether the x of a's sum, taken mod the order, is r, 0 < r < order < p: X = r Z^2, or X = (r +
 * order) Z^2 if that is below p. Products of the plain number and a Montgomery form are plain. */
static b32 adder_x_is(adder *a, const u64 *r)
{
    static const formula_step difference[] = {
        {MUL, T0, Z1, Z1},
        {MUL, T0, T0, T1},
        {MUL, T2, X1, T3},
        {SUB, T0, T0, T2},
    };
    const curve *f = &curves[a->curve];
    iz n = curve_limbs(a->curve);
    u64 *plain = a->t[1];
    if (field_is_zero(a->sum.z))
        return 0;
    copy((u8 *)plain, (const u8 *)r, sizeof a->t[1]);
    copy((u8 *)a->t[3], (const u8 *)field_plain_one, sizeof a->t[3]);
    do {
        adder_run(a, difference, countof(difference));
        if (field_is_zero(a->t[0]))
            return 1;
    } while (!limbs_add(plain, f->order, n) && limbs_less(plain, f->prime, n));
    return 0;
}

/* Whether (r, s), unsigned big-endian numbers, is a signature of a digest of any length under a key
 * (uncompressed point). Of the digest the leftmost bits, as many as the order has, are used.
 * E_PointInvalid for the key, E_SignatureBad for the rest. FIPS 186-5, section 6.4.2. */
static err ecdsa_verify(curve_id c, str key, str digest, str r, str s)
{
    iz n = curve_limbs(c);
    point q;
    err error = point_read(c, &q, key);
    if (error)
        return error;
    modulus order;
    big rr, w, u1, u2;
    order.n = (big){0};
    copy((u8 *)big_limbs(&order.n), (const u8 *)curves[c].order, n * 8);
    modulus_set(&order);
    if (!scalar_read(&order, &rr, r) || !scalar_read(&order, &w, s))
        return E_SignatureBad;
    big_read(&u1, str_span(digest, 0, digest.len < 8 * n ? digest.len : 8 * n));
    scalar_invert(&order, &w);
    u2 = rr;
    mont_product(&order, &u1, &w);
    mont_product(&order, &u2, &w);
    adder a = {.curve = c};
    adder_combine(&a, &u1, &u2, &q);
    return adder_x_is(&a, big_limbs(&rr)) ? E_None : E_SignatureBad;
}

/* ---- RSA ---- */

/* 64 bits of the two limbs ending at p[0], from bit `drop` from the top on. */
static u64 limbs_top(const u64 *p, iz drop)
{
    return p[0] << drop | p[-1] >> 1 >> (63 - drop);
}

/* x = x * R mod n, for x < n: limb by limb, x = x * 2^64 - q * n. Counted from the first bit of n
 * on, let d be the first 64 bits of n, D = d + 1, V = floor(2^128 / D) = 2^64 + v, and A = 2^64 *
 * high + low the first 128 bits of x * 2^64. Of low only l counts, its bits in the limb that it
 * begins in, and low - l < 2^63. Then
 *     q = floor((high * V + l) / 2^64) <= A * V / 2^128 <= A / D,
 * and A / D <= x * 2^64 / n < 2^64, so that q fits and the rest is not negative. The true quotient
 * is above A / D by 2 at most, A / D above A * V / 2^128 by less than 1, and that, with low * v /
 * 2^128 + (low - l) / 2^64 left out, above q by less than 2.5: up to 5 subtractions follow, mostly
 * none or one. The sum in q is (2^64 - 1)^2 + 2^64 - 1 < 2^128 at most. */
static void mont_enter(const modulus *m, big *number)
{
    iz n = m->limbs, drop = 64 * n - m->bits;
    u64 *x = big_limbs(number), v = 0;
    const u64 *p = big_limbs(&m->n);
    u128 divisor = (u128)limbs_top(p + n - 1, drop) + 1, rest = ((u128)1 << 64) - divisor;
    for (iz i = 0; i < 64; i++) {
        rest <<= 1;
        v = v << 1 | (rest >= divisor);
        if (rest >= divisor)
            rest -= divisor;
    }
    for (iz i = 0; i < n; i++) {
        u64 carry = 0, below = 0, high = limbs_top(x + n - 1, drop);
        u64 q = high + (u64)(((u128)high * v + (x[n - 2] << drop)) >> 64);
        for (iz j = 0; j < n; j++) {
            u128 product = (u128)q * p[j] + carry; /* with the borrow, carry < 2^64 still */
            u64 limb = x[j];
            x[j] = below - (u64)product;
            carry = (u64)(product >> 64) + (below < (u64)product);
            below = limb;
        }
        for (u64 top = below - carry; top || !limbs_less(x, p, n);)
            top -= limbs_sub(x, p, n);
    }
}

/* em = signature^e mod n (RSAVP1, RFC 8017, section 5.2.2), as long as n, and the number of bits of
 * n. n and e are unsigned big-endian. E_RsaSize, E_RsaExponent; E_SignatureBad for a signature that
 * is not as long as n or not below it. */
static err rsa_open(u8 em[RSA_BITS_MAX / 8], iz *bits, str n, str e, str signature)
{
    n = str_without_zeros(n);
    e = str_without_zeros(e);
    if (n.len > RSA_BITS_MAX / 8 || n.len < RSA_BITS_MIN / 8 || n.ptr[n.len - 1] % 2 == 0)
        return E_RsaSize;
    modulus m_n;
    big_read(&m_n.n, n);
    modulus_set(&m_n);
    *bits = m_n.bits;
    if (m_n.bits < RSA_BITS_MIN)
        return E_RsaSize;
    if (!e.len || e.len > RSA_EXPONENT_MAX)
        return E_RsaExponent;
    reader in = reader_of(e);
    u64 exponent = read_be(&in, e.len);
    if (exponent < 3 || exponent % 2 == 0)
        return E_RsaExponent;
    if (signature.len != n.len)
        return E_SignatureBad;
    big plain, form, m;
    big_read(&plain, signature);
    if (!limbs_less(big_limbs(&plain), big_limbs(&m_n.n), m_n.limbs))
        return E_SignatureBad;
    form = plain;
    mont_enter(&m_n, &form);
    m = form;
    for (iz i = 62 - __builtin_clzll(exponent); i >= 0; i--) {
        mont_product(&m_n, &m, &m);
        if (exponent >> i & 1) /* the last bit is set, and the last product makes m plain */
            mont_product(&m_n, &m, i ? &form : &plain);
    }
    limbs_write(em, n.len, big_limbs(&m));
    return E_None;
}

/* The end of the padding, then DigestInfo up to the digest (RFC 8017, appendix A.2.4 and section
 * 9.2, note 1): the digest's length is to be added in two places, and the last number of the hash's
 * object identifier, which is 1 for SHA-256 and counts up in the order of hash_id. */
static const u8 pkcs1_info[20] = {0,    0x30, 17, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48,
                                  0x01, 0x65, 3,  4,    2,    0, 5, 0,    4,    0};

/* Whether em is EMSA-PKCS1-v1_5's encoding (RFC 8017, section 9.2) of a digest of kind id. It is
 * made anew and compared as a whole, with the NULL that RFC 8017 has the AlgorithmIdentifier
 * carry. (Apart from its caller, whose frame is smaller without the second buffer.) */
static __attribute__((noinline)) b32 rsa_is_pkcs1(str em, hash_id id, str digest)
{
    u8 made[RSA_BITS_MAX / 8], *end = made + em.len - digest.len, *info = end - sizeof pkcs1_info;
    memset(made, 0xff, sizeof made);
    made[0] = 0;
    made[1] = 1;
    copy(info, pkcs1_info, sizeof pkcs1_info);
    info[2] = (u8)(info[2] + digest.len);
    info[15] = (u8)(1 + id);
    info[19] = (u8)digest.len;
    copy(end, digest.ptr, digest.len);
    return !memcmp(made, em.ptr, (uz)em.len);
}

/* data ^= MGF1(seed), RFC 8017, appendix B.2.1. */
static void mgf1_mask(hash_id id, str seed, u8 *data, iz n)
{
    u8 block[HASH_MAX], counted[HASH_MAX + 4] = {0};
    copy(counted, seed.ptr, seed.len);
    for (iz at = seed.len; n > 0; n--, data++, at++) {
        if (at == seed.len) {
            hash_of(id, (str){counted, seed.len + 4}, block);
            counted[seed.len + 3]++; /* n is below 512: at most 16 blocks */
            at = 0;
        }
        *data ^= block[at];
    }
}

/* Whether em, a number of at most em_bits + 1 bits, is EMSA-PSS's encoding (RFC 8017, section
 * 9.1.2) of a digest of kind id, with the same hash in MGF1 and a salt as long as the digest. em is
 * unmasked in place. Its first byte holds the upper em_bits % 8 bits of the encoding; if these are
 * none, the encoding begins behind it. */
static b32 rsa_is_pss(u8 *em, iz em_bits, hash_id id, str digest)
{
    iz size = digest.len, db_len = ((em_bits + 7) >> 3) - size - 1, padding = db_len - size - 1;
    i32 top = em_bits & 7;
    u8 again[HASH_MAX], salted[8 + 2 * HASH_MAX] = {0}, wrong = (u8)(em[0] >> top);
    if (!top)
        em++;
    str seed = {em + db_len, size};
    mgf1_mask(id, seed, em, db_len);
    em[0] &= (u8)(0xff >> (-top & 7));
    wrong |= seed.ptr[size] ^ 0xbc;
    for (iz i = 0; i < padding; i++)
        wrong |= em[i];
    wrong |= em[padding] ^ 1;
    copy(salted + 8, digest.ptr, size);
    copy(salted + 8 + size, em + padding + 1, size);
    hash_of(id, (str){salted, 8 + 2 * size}, again);
    return !wrong && !memcmp(seed.ptr, again, (uz)size);
}

/* Whether signature is RSASSA-PSS's, else RSASSA-PKCS1-v1_5's (RFC 8017, sections 8.1.2 and 8.2.2),
 * of a digest of kind id. Errors as for rsa_open. */
static err rsa_verify(b32 pss, str n, str e, hash_id id, str digest, str signature)
{
    u8 em[RSA_BITS_MAX / 8];
    iz bits;
    err error = rsa_open(em, &bits, n, e, signature);
    if (error)
        return error;
    if (digest.len != hash_size(id))
        return E_SignatureBad;
    b32 good = pss ? rsa_is_pss(em, bits - 1, id, digest)
                   : rsa_is_pkcs1((str){em, signature.len}, id, digest);
    return good ? E_None : E_SignatureBad;
}

/* ---------------------------------------------------------------------------------------------
 * 7 DER and X.509
 *
 * A server proves its name by certificates: the leaf, which holds its name and key, and those of
 * the authorities (CAs) above it, each signed by the next, up to a root that is in this machine's
 * bundle. x509_verify finds such a path and checks it by RFC 5280 section 6, and the name by RFC
 * 9525. Certificates are decoded into slices of what the server sent; nothing is allocated.
 *
 * The search goes from the leaf upwards, one node of the path at a time. For the certificate on
 * top it tries each issuer of the right name, among the roots and among what was sent. All checks
 * on an issuer are made at once, as all that is below it is known, the cheap ones first and the
 * signature last but one. An issuer that passes becomes the new top; when none is left, the top
 * is taken off again. So order, strangers, duplicates and wrong turns do not matter, and the cost
 * is at most PATH_CHECKS signatures. A CA (name and key) stands in a path only once, below the
 * root.
 *
 * Which error is reported: what is wrong with the leaf itself; else that the search was given up;
 * else the refusal farthest from the leaf, of several the first. To find no issuer at all counts as
 * a refusal one step above.
 *
 * DER: definite and shortest lengths, shortest integers, no explicit defaults, one-byte tags.
 * Distinguished names are compared as bytes. Dates have seconds and end in Z. A critical extension
 * that is not applied here is refused, key identifiers and policies among them; so is
 * policyConstraints in any case. Names are those of subjectAltName only. Name constraints are
 * applied to DNS names and IP addresses; of directory names only permitted subtrees are, by the
 * bytes of whole RDNs; any other constraint refuses a certificate below with a name of its form.
 * An emailAddress inside a subject is not taken for a name.
 *
 * What root certificates say of themselves (dates, key usage, path length, constraints) holds for
 * them too; only their own signature is not looked at. A certificate in the bundle need not be
 * self-signed, but must be a CA's.
 *
 * Left out: revocation (no second connection, no stapling); authority and subject key identifiers
 * (they could only order the search); policies; keys of RSASSA-PSS, P-521, Ed25519 and DSA.
 * ------------------------------------------------------------------------------------------ */

enum {
    DER_ANY = 0, /* for der_item: whatever comes */
    DER_BOOLEAN = 1,
    DER_INTEGER = 2,
    DER_BIT_STRING = 3,
    DER_OCTET_STRING = 4,
    DER_OID = 6,
    DER_UTC_TIME = 23,
    DER_GENERALIZED_TIME = 24,
    DER_SEQUENCE = 0x30,
    DER_SET = 0x31,
    DER_CONTEXT = 0x80,     /* plus the number in brackets */
    DER_CONSTRUCTED = 0x20, /* plus the above, when other items are inside */
};

static void der_malformed(reader *r)
{
    reader_fail(r, E_DerMalformed);
}

/* Length of the next item (X.690 8.1.2, 10.1). The tag is read, too; the contents are still to be
 * read. Lengths of four bytes or more are refused: nothing here comes near 16 MB. */
static iz der_header(reader *r)
{
    u8 tag = read_byte(r);
    iz len = read_byte(r);
    b32 bad = (tag & 0x1f) == 0x1f;
    if (len >= 0x80) {
        iz n = len - 0x80;
        len = 1 <= n && n <= 3 ? (iz)read_be(r, n) : 0;
        bad |= len < 0x80 || !(len >> (8 * (n - 1)));
    }
    if (bad)
        der_malformed(r);
    return r->error ? 0 : len;
}

/* The contents of the next item, which must have that tag. */
static str der_item(reader *r, u8 tag)
{
    u8 found = reader_peek(r);
    str contents = read_bytes(r, der_header(r));
    if (!tag || r->error || found == tag)
        return contents;
    der_malformed(r);
    return (str){r->end, 0};
}

/* The next item with its tag and length. */
static str der_whole(reader *r, u8 tag)
{
    const u8 *start = r->at;
    der_item(r, tag);
    return r->error ? (str){r->end, 0} : (str){start, r->at - start};
}

static b32 der_next_is(const reader *r, u8 tag)
{
    return reader_peek(r) == tag;
}

/* Begins anew with an item in memory, in place: a structure that is returned would be copied. */
static void der_begin(reader *r, str der)
{
    r->at = der.ptr;
    r->end = str_from(der, der.len).ptr;
    r->error = E_None;
}

/* Narrows the reader to the contents of the next item. Returns its former end, which is to be given
 * back to der_leave. */
static const u8 *der_enter(reader *r, u8 tag)
{
    str contents = der_item(r, tag);
    const u8 *end = r->end;
    r->at = contents.ptr;
    r->end = contents.ptr + contents.len;
    return end;
}

static const u8 *der_sequence(reader *r)
{
    return der_enter(r, DER_SEQUENCE);
}

/* All must have been read up to here. */
static void der_end(reader *r)
{
    if (reader_left(r))
        der_malformed(r);
}

static void der_leave(reader *r, const u8 *end)
{
    der_end(r);
    r->end = end;
    if (r->error)
        r->at = end;
}

/* BOOLEAN DEFAULT FALSE: absent or TRUE, which is FF (X.690 11.1, 11.5). */
static b32 der_flag(reader *r)
{
    if (!der_next_is(r, DER_BOOLEAN))
        return 0;
    if (!str_eq(der_item(r, DER_BOOLEAN), S("\xff")))
        der_malformed(r);
    return 1;
}

/* An INTEGER in two's complement, the shortest there is (X.690 8.3.2). */
static str der_integer(reader *r)
{
    str s = der_item(r, DER_INTEGER);
    u32 first = (u32)(str_at(s, 0) << 8 | str_at(s, 1)) >> 7; /* nine bits, not all the same */
    if (!s.len || (s.len > 1 && (first == 0 || first == 0x1ff)))
        der_malformed(r);
    return s;
}

/* An INTEGER that is not negative, without the zero byte that only says so. */
static str der_unsigned(reader *r)
{
    str s = der_integer(r);
    if (s.len && s.ptr[0] >= 0x80)
        der_malformed(r);
    return s.len > 1 && !s.ptr[0] ? str_span(s, 1, s.len) : s;
}

/* A SEQUENCE of two INTEGERs that are not negative, and nothing else. */
static err der_pair(str der, str *a, str *b)
{
    reader r = reader_of(der);
    const u8 *end = der_sequence(&r);
    *a = der_unsigned(&r);
    *b = der_unsigned(&r);
    der_leave(&r, end);
    der_end(&r);
    return r.error;
}

/* A BIT STRING's bytes. Of the last one so many bits at most do not count, and those must be zeros
 * (X.690 8.6.2, 11.2.1). */
static str der_bits(reader *r, u32 most_unused)
{
    str s = der_item(r, DER_BIT_STRING);
    if (!s.len) {
        reader_fail(r, E_Truncated);
        return s;
    }
    u32 unused = s.ptr[0], last = s.len > 1 ? s.ptr[s.len - 1] : 1;
    if (unused > most_unused || last & ((1u << unused) - 1))
        der_malformed(r);
    return str_from(s, 1);
}

/* Seconds since 1970 of the next item, a UTCTime YYMMDDHHMMSSZ or a GeneralizedTime YYYYMMDDHHMMSSZ
 * (RFC 5280 section 4.1.2.5). There are no leap seconds in them. The latter should begin with 2050,
 * but a well-known root (Certum Trusted Network CA 2) has one of 2046. */
static i64 der_time(reader *r)
{
    static const u8 most[] = {99, 99, 12, 31, 23, 59, 59};
    b32 utc = der_next_is(r, DER_UTC_TIME);
    const u8 *end = der_enter(r, utc ? DER_UTC_TIME : DER_GENERALIZED_TIME);
    i64 part[countof(most)];
    for (iz i = utc; i < countof(most); i++) {
        part[i] = read_decimal(r, 2);
        if (part[i] > most[i])
            der_malformed(r);
    }
    if (utc)
        part[0] = part[1] < 50 ? 20 : 19;
    i64 year = part[0] * 100 + part[1], day = days_of_date(year, part[2], part[3]);
    b32 good = part[2] && part[3] && day < days_of_date(year, part[2] + 1, 1);
    if (read_byte(r) != 'Z' || !good)
        der_malformed(r);
    der_leave(r, end);
    return ((day * 24 + part[4]) * 60 + part[5]) * 60 + part[6];
}

/* A public key; the slices lie in the certificate. The curves come in the order of curve_id. */
typedef enum { KEY_RSA, KEY_P256, KEY_P384, KEY_UNKNOWN } key_id;

typedef struct {
    key_id id;
    b8 may_sign; /* keyUsage allows digitalSignature, as TLS wants of a server */
    str n, e;    /* RSA: unsigned, big-endian */
    str point;   /* uncompressed */
} public_key;

/* A signature algorithm: three kinds, each with the hashes in the order of hash_id; and what is
 * refused. */
typedef enum {
    ECDSA_SHA256,
    ECDSA_SHA384,
    ECDSA_SHA512,
    PKCS1_SHA256,
    PKCS1_SHA384,
    PKCS1_SHA512,
    PSS_SHA256,
    PSS_SHA384,
    PSS_SHA512,
    SIG_WEAK, /* SHA-1 or MD5 */
    SIG_UNKNOWN,
} sig_id;

/* The place of an item in a list of known ones, each behind its length; or the list's length. */
static u32 der_known(str item, const char *list)
{
    u32 i = 0;
    while (*list && !str_eq(item, str_of(list + 1, *list))) {
        list += 1 + *list;
        i++;
    }
    return i;
}

/* AlgorithmIdentifiers as they must stand, parameters and all (RFC 4055 section 5, RFC 5758
 * section 3.2), in the order of sig_id; the last three, with SHA-1 and MD5, are SIG_WEAK. */
static const char sig_algorithms[] =
    "\x0c\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
    "\x0c\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
    "\x0c\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\0"
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\0"
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\0"
    "\x0b\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\0"
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04\x05\0";

/* The same for RSASSA-PSS with SHA-256 and 32 bytes of salt: hash, MGF1 with that hash, salt
 * length; the trailer is the default (RFC 4055 section 3.1). */
static const char sig_pss[] = "\x30\x41\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34"
                              "\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00"
                              "\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
                              "\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00"
                              "\xa2\x03\x02\x01\x20";
enum { SIG_PSS_HASH = 29, SIG_PSS_MGF_HASH = 59, SIG_PSS_SALT = 66, SIG_PSS_SIZE = 67 };

/* Takes a whole AlgorithmIdentifier. */
static sig_id sig_of_algorithm(str algorithm)
{
    u32 known = der_known(algorithm, sig_algorithms);
    if (known < PSS_SHA256 + 3)
        return known < PSS_SHA256 ? (sig_id)known : SIG_WEAK;
    u32 id = str_at(algorithm, SIG_PSS_HASH) - 1u;
    b32 same = algorithm.len == SIG_PSS_SIZE && id < 3;
    for (iz i = 0; i < algorithm.len && same; i++) {
        u32 more = i == SIG_PSS_HASH || i == SIG_PSS_MGF_HASH ? id : 0;
        same = algorithm.ptr[i] == (u8)sig_pss[i] + (i == SIG_PSS_SALT ? 16 * id : more);
    }
    return same ? (sig_id)(PSS_SHA256 + id) : SIG_UNKNOWN;
}

/* Takes the SignatureScheme of a TLS 1.3 CertificateVerify (RFC 8446 section 4.2.3) and the leaf's
 * key, to which it must fit. E_CertSignatureUnsupported for a scheme that is not for this key or
 * not for handshakes; E_CertKeyUsage if the certificate does not let the key sign. */
static err sig_of_scheme(u32 scheme, const public_key *k, sig_id *id)
{
    if (!k->may_sign)
        return E_CertKeyUsage;
    if (k->id == KEY_P256 && scheme == 0x0403)
        *id = ECDSA_SHA256;
    else if (k->id == KEY_P384 && scheme == 0x0503)
        *id = ECDSA_SHA384;
    else if (k->id == KEY_RSA && 0x0804 <= scheme && scheme <= 0x0806)
        *id = (sig_id)(PSS_SHA256 + (scheme - 0x0804));
    else
        return E_CertSignatureUnsupported;
    return E_None;
}

/* Checks a signature, for ECDSA a DER ECDSA-Sig-Value (RFC 3279 section 2.2.3), by k over message.
 * E_SignatureBad, also if the algorithm is not for such a key; E_DerMalformed; what section 6
 * finds wrong with the key. */
static err key_verify(const public_key *k, sig_id id, str message, str signature)
{
    hash_id h = (hash_id)(id % 3);
    u8 digest[HASH_MAX];
    str d = {digest, hash_size(h)};
    if (id >= SIG_WEAK || (id >= PKCS1_SHA256) != (k->id == KEY_RSA))
        return E_SignatureBad;
    hash_of(h, message, digest);
    if (id >= PKCS1_SHA256)
        return rsa_verify(id >= PSS_SHA256, k->n, k->e, h, d, signature);
    str r, s;
    if (der_pair(signature, &r, &s))
        return E_DerMalformed;
    return ecdsa_verify((curve_id)(k->id - KEY_P256), k->point, d, r, s);
}

/* In the order of key_id. */
static const char key_algorithms[] =
    "\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\0"
    "\x15\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
    "\x12\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\0\x22";

/* Reads a SubjectPublicKeyInfo (RFC 3279 section 2.3, RFC 5480 section 2). RSA moduli are whole
 * bytes, of RSA_BITS_MIN or more; section 6 has the upper bound. */
static void key_decode(public_key *k, reader *r)
{
    const u8 *end = der_sequence(r);
    str algorithm = der_whole(r, DER_SEQUENCE), bits = der_bits(r, 0);
    der_leave(r, end);
    k->id = (key_id)der_known(algorithm, key_algorithms);
    k->point = bits;
    if (k->id == KEY_RSA) {
        err error = der_pair(bits, &k->n, &k->e);
        if (error)
            reader_fail(r, error);
        if (k->n.len < RSA_BITS_MIN / 8 || k->n.ptr[0] < 0x80)
            reader_fail(r, E_CertKeyWeak);
    } else if (k->id == KEY_UNKNOWN)
        reader_fail(r, E_CertKeyUnsupported);
    else if (bits.len != (k->id == KEY_P256 ? 65 : 97) || bits.ptr[0] != 4)
        reader_fail(r, E_CertMalformed);
}

enum {
    USAGE_DIGITAL_SIGNATURE = 0x80, /* keyUsage's first byte (RFC 5280 section 4.2.1.3) */
    USAGE_CERT_SIGN = 0x04,
    USAGE_ABSENT = 0x1ff, /* no keyUsage: all is allowed */
};

/* A certificate; slices of its DER. */
typedef struct {
    reader r;  /* over what is being decoded */
    err error; /* the first thing wrong with it; the fields read before that hold */
    sig_id sig;
    str issuer, subject; /* whole items */
    str identity;        /* subject and key: they stand side by side */
    b8 self_issued, ca, server_auth;
    u32 usage;
    i32 path_len; /* -1: not limited */
    i64 not_before, not_after;
    str signed_part, signature;
    str names, constraints; /* contents of subjectAltName and nameConstraints; empty: none */
    public_key key;
} certificate;

/* extendedKeyUsage: one purpose at least, serverAuth among them (RFC 5280 4.2.1.12). RFC 5280 lets
 * anyExtendedKeyUsage stand for it; TLS does not need that, and others do not take it either. */
static b32 cert_purposes(reader *r)
{
    b32 fit = 0;
    const u8 *end = der_sequence(r);
    do
        fit |= str_is(der_item(r, DER_OID), "\x2b\x06\x01\x05\x05\x07\x03\x01");
    while (reader_left(r));
    der_leave(r, end);
    return fit;
}

/* Takes in one extension, by the last byte of its object identifier 2.5.29.x (RFC 5280 4.2.1). */
static void cert_extension(certificate *c, str oid, b32 critical)
{
    reader *r = &c->r;
    u32 id = oid.len == 3 && oid.ptr[0] == 0x55 && oid.ptr[1] == 0x1d ? oid.ptr[2] : 0;
    if (id == 15) {
        str bits = der_bits(r, 7);
        c->usage = bits.len ? bits.ptr[0] : 0;
    } else if (id == 17 || id == 30) {
        str *part = id == 17 ? &c->names : &c->constraints;
        *part = der_item(r, DER_SEQUENCE);
        if (!part->len || (id == 17 && !critical && c->subject.len <= 2))
            reader_fail(r, E_CertMalformed);
    } else if (id == 19) {
        const u8 *end = der_sequence(r);
        c->ca = der_flag(r);
        if (reader_left(r)) {
            str len = der_unsigned(r);
            c->path_len = len.len == 1 ? len.ptr[0] : PATH_CERTS;
        }
        der_leave(r, end);
    } else if (id == 37) {
        c->server_auth = cert_purposes(r);
    } else {
        der_item(r, DER_ANY);
        if (critical || id == 36)
            reader_fail(r, E_CertExtensionUnknown);
    }
}

/* All extensions; none may come twice (RFC 5280 section 4.2). */
static void cert_extensions(certificate *c)
{
    reader *r = &c->r;
    str seen[CERT_EXTENSIONS];
    iz count = 0;
    const u8 *list_end = der_sequence(r);
    do {
        const u8 *end = der_sequence(r);
        str oid = der_item(r, DER_OID);
        b32 critical = der_flag(r);
        const u8 *value_end = der_enter(r, DER_OCTET_STRING);
        b32 bad = count == CERT_EXTENSIONS;
        for (iz i = 0; i < count; i++)
            bad |= str_eq(seen[i], oid);
        if (bad)
            reader_fail(r, E_CertMalformed);
        if (!r->error) {
            seen[count++] = oid;
            cert_extension(c, oid, critical);
        }
        der_leave(r, value_end);
        der_leave(r, end);
    } while (reader_left(r));
    der_leave(r, list_end);
}

/* The part that is signed, TBSCertificate (RFC 5280 section 4.1). The unique identifiers of version
 * 2 are not known here, and so refused. */
static void cert_signed_part(certificate *c, str algorithm)
{
    reader *r = &c->r;
    b32 version_3 = 0;
    if (der_next_is(r, DER_CONTEXT | DER_CONSTRUCTED))
        version_3 = str_eq(der_item(r, DER_CONTEXT | DER_CONSTRUCTED), S("\x02\x01\x02"));
    der_integer(r);
    if (!str_eq(der_whole(r, DER_SEQUENCE), algorithm))
        reader_fail(r, E_CertMalformed);
    c->issuer = der_whole(r, DER_SEQUENCE);
    const u8 *end = der_sequence(r);
    c->not_before = der_time(r);
    c->not_after = der_time(r);
    der_leave(r, end);
    c->subject = der_whole(r, DER_SEQUENCE);
    if (!version_3)
        reader_fail(r, E_CertVersion);
    if (c->issuer.len <= 2)
        reader_fail(r, E_CertMalformed);
    key_decode(&c->key, r);
    c->identity = (str){c->subject.ptr, r->error ? 0 : r->at - c->subject.ptr};
    if (reader_left(r)) {
        end = der_enter(r, DER_CONTEXT | DER_CONSTRUCTED | 3);
        cert_extensions(c);
        der_leave(r, end);
    }
}

/* Decodes one certificate in DER; all of der must be it. What is wrong goes to c->error:
 * E_DerMalformed or E_Truncated (an item is not DER), E_CertMalformed, E_CertVersion,
 * E_CertKeyWeak, E_CertKeyUnsupported, E_CertExtensionUnknown. */
static void cert_decode(certificate *c, str der)
{
    *c = (certificate){.path_len = -1, .usage = USAGE_ABSENT, .server_auth = 1};
    der_begin(&c->r, der);
    const u8 *end = der_sequence(&c->r);
    c->signed_part = der_whole(&c->r, DER_SEQUENCE);
    str algorithm = der_whole(&c->r, DER_SEQUENCE);
    c->sig = sig_of_algorithm(algorithm);
    c->signature = der_bits(&c->r, 0);
    der_leave(&c->r, end);
    der_end(&c->r);
    c->error = c->r.error;
    der_begin(&c->r, c->signed_part);
    end = der_sequence(&c->r);
    cert_signed_part(c, algorithm);
    der_leave(&c->r, end);
    if (!c->error)
        c->error = c->r.error;
    c->self_issued = str_eq(c->issuer, c->subject);
    c->key.may_sign = (c->usage & USAGE_DIGITAL_SIGNATURE) != 0;
}

/* What is asked of every certificate of a path by itself; of the root's signature, nothing. */
static err cert_check(const certificate *c, i64 now, b32 root)
{
    if (c->error)
        return c->error;
    if (now < c->not_before || c->not_after < now)
        return now < c->not_before ? E_CertNotYetValid : E_CertExpired;
    if (!root && c->sig >= SIG_WEAK)
        return c->sig == SIG_WEAK ? E_CertSignatureWeak : E_CertSignatureUnsupported;
    return c->server_auth ? E_None : E_CertPurpose;
}

/* What follows the first label, with its dot; empty if there is only one. */
static str name_parent(str name)
{
    iz dot = str_find(name, '.');
    return str_from(name, dot < 0 ? name.len : dot);
}

/* Does a dNSName cover a valid host name (RFC 9525 section 6.3)? A wildcard is the whole first
 * label, stands for one label, and needs two labels after it. */
static b32 name_covers(str pattern, str host)
{
    if (str_at(pattern, 0) != '*' || str_at(pattern, 1) != '.')
        return str_eq_nocase(pattern, host);
    pattern = str_from(pattern, 1);
    return str_find(str_from(pattern, 1), '.') >= 0 && str_eq_nocase(pattern, name_parent(host));
}

/* Is name base itself, or below it? The empty base holds all names. */
static b32 name_is_below(str name, str base)
{
    iz extra = name.len - base.len;
    if (!base.len || extra < 0)
        return !base.len;
    return str_eq_nocase(str_from(name, extra), base) && (!extra || name.ptr[extra - 1] == '.');
}

/* Is the address in the network, an address and its mask (RFC 5280 section 4.2.1.10)? */
static b32 ip_within(str ip, str network)
{
    if (network.len != 2 * ip.len)
        return 0;
    for (iz i = 0; i < ip.len; i++)
        if ((ip.ptr[i] ^ network.ptr[i]) & network.ptr[ip.len + i])
            return 0;
    return 1;
}

/* A network's mask is ones and then zeros. */
static b32 ip_network_valid(str network)
{
    u32 before = 0xff;
    for (iz i = network.len >> 1; i < network.len; i++) {
        u32 ones = network.ptr[i], zeros = ones ^ 0xff;
        if (zeros & (zeros + 1) || (before != 0xff && ones))
            return 0;
        before = ones;
    }
    return network.len == 8 || network.len == 32;
}

static b32 str_has_at(str s, iz at, str part)
{
    return part.len <= s.len - at && str_eq(str_span(s, at, at + part.len), part);
}

/* Does the directory name begin with the RDNs of base? Both are RDNSequences, whole items. */
static b32 dn_within(str name, str base)
{
    reader n = reader_of(name), b = reader_of(base);
    str names = der_item(&n, DER_SEQUENCE);
    const u8 *end = der_sequence(&b);
    str bases = {b.at, reader_left(&b)};
    while (reader_left(&b))
        der_item(&b, DER_SET); /* whole ones, so that the same bytes are the same RDNs */
    der_leave(&b, end);
    der_end(&b);
    return !b.error && !n.error && str_starts(names, bases);
}

/* The forms of GeneralName, by their number in brackets (RFC 5280 section 4.2.1.6). */
enum { NAME_DNS = 2, NAME_DIRECTORY = 4, NAME_IP = 7, NAME_LAST = 8 };

typedef struct {
    u8 form;
    str value;
} general_name;

/* The next name of a list, or the base of a constraint. DNS names must be visible ASCII, bases host
 * names or empty; addresses must be of one of the two lengths, bases with a mask. */
static void name_next(reader *r, b32 base, general_name *name)
{
    u8 tag = reader_peek(r), form = tag & 0x1f;
    str value = der_item(r, DER_ANY);
    u8 constructed = form == 0 || (3 <= form && form <= 5) ? DER_CONSTRUCTED : 0;
    b32 good = form <= NAME_LAST && tag == (DER_CONTEXT | constructed | form);
    if (good && form == NAME_DNS)
        good = base ? !value.len || host_valid(value) : str_is_visible(value, value.len);
    if (good && form == NAME_IP)
        good = base ? ip_network_valid(value) : value.len == 4 || value.len == 16;
    if (!good)
        reader_fail(r, E_CertMalformed);
    *name = (general_name){form, value};
}

/* Does a constraint's base hold a name of the same form? Of what is excluded, names in doubt count
 * as held: a wildcard that could stand for the base, and forms other than DNS names and addresses.
 * Of what is permitted they do not. */
static b32 name_within(const general_name *name, str base, b32 excluded)
{
    str value = name->value;
    if (name->form == NAME_DNS) {
        b32 wild = excluded && value.len > 1 && value.ptr[0] == '*';
        return name_is_below(value, base) ||
               (wild && str_eq_nocase(str_span(value, 1, value.len), name_parent(base)));
    }
    if (name->form == NAME_IP)
        return ip_within(value, base);
    return excluded || (name->form == NAME_DIRECTORY && dn_within(value, base));
}

/* One certificate of the bundle, in base64 by RFC 7468: lines of one length, that of the first. */
typedef struct {
    str text;        /* from the first character of base64 to the end of the bundle */
    iz width, pitch; /* characters of base64 in a line, and from one line to the next */
    iz size;         /* bytes of the certificate */
    iz at;           /* the byte to be read next */
    str whole;       /* from BEGIN to END */
} pem_entry;

/* What is asked of x509_verify, and what it found. */
typedef struct {
    pem_entry root;      /* in the bundle; pem_decode gives its DER. First: most used */
    str host;            /* a DNS name without final dot; or an address, IPv6 as in a URL or not */
    str bundle;          /* the roots, PEM text */
    i64 now, until;      /* in seconds since 1970; all of the path is valid until then */
    iz checks;           /* signatures checked */
    iz path_len;         /* 0 if no path was found */
    iz path[PATH_CERTS]; /* indexes of those sent, the leaf's 0 first; for get -v */
    public_key leaf;     /* slices of the first of those sent */
} x509_query;

/* What is under way: the path so far, the leaf first, and where to look for the next issuer of
 * each of its certificates. */
typedef struct {
    iz next_sent;  /* where to go on looking among those sent */
    iz next_root;  /* ... in the bundle */
    i32 phase;     /* two places to look for its issuer; 2: both done */
    b8 any_issuer; /* one of the right name was found */
    certificate cert;
} path_node;

typedef struct {
    x509_query *query; /* its root: one being tried, whose decoded bytes are in `root` */
    const str *certs;  /* as sent */
    iz count;
    iz name_checks;
    path_node *top; /* of the path; behind it is the issuer being tried */
    b8 anchored;    /* that is a root */
    path_node path[PATH_CERTS + 1];
    u8 root[CERT_ROOT_SIZE];
} path_search;

/* Reads one list of GeneralSubtrees, if it is there: does it refuse the name? (RFC 5280 section
 * 4.2.1.10) */
static b32 constraint_list(path_search *s, reader *r, b32 excluded, const general_name *name)
{
    u8 tag = DER_CONTEXT | DER_CONSTRUCTED | (u8)excluded;
    b32 held = 0, limited = 0;
    if (!der_next_is(r, tag))
        return 0;
    const u8 *list_end = der_enter(r, tag);
    do {
        const u8 *end = der_sequence(r);
        general_name base;
        name_next(r, 1, &base);
        der_leave(r, end);
        if (++s->name_checks > PATH_NAMES)
            reader_fail(r, E_CertSearchBound);
        if (!r->error && base.form == name->form) {
            limited = 1;
            if (name_within(name, base.value, excluded))
                held = 1;
        }
    } while (reader_left(r));
    der_leave(r, list_end);
    return excluded ? held : limited && !held;
}

/* May a name stand below a certificate with these constraints? */
static err constraint_check(path_search *s, str constraints, const general_name *name)
{
    reader r = reader_of(constraints);
    b32 refused = 0;
    for (u8 excluded = 0; excluded < 2; excluded++)
        refused |= constraint_list(s, &r, excluded, name);
    der_end(&r);
    return r.error ? r.error : refused ? E_CertNameConstraint : E_None;
}

/* Applies an issuer's constraints to the names of all certificates below it, but for self-issued
 * CAs (RFC 5280 section 6.1.3 b and c). */
static err constraints_check(path_search *s, str constraints)
{
    err error = E_None;
    for (const path_node *n = s->path; constraints.len && n <= s->top && !error; n++) {
        const certificate *c = &n->cert;
        if (n > s->path && c->self_issued)
            continue;
        reader names = reader_of(c->names);
        general_name name = {NAME_DIRECTORY, c->subject};
        b32 subject = c->subject.len > 2; /* comes first, if it is not empty */
        for (; !error && (subject || reader_left(&names)); subject = 0) {
            if (!subject)
                name_next(&names, 0, &name);
            error = names.error ? names.error : constraint_check(s, constraints, &name);
        }
    }
    return error;
}

/* The value of a character of base64 (RFC 4648 section 4); 64 or more for others. */
static u32 base64_value(u8 c)
{
    static const char plus_32[] = "^```_TUVWXYZ[\\]``````` !\"#$%&'()*+,-./0123456789"
                                  "``````:;<=>?@ABCDEFGHIJKLMNOPQRS"; /* from '+' to 'z' */
    u32 i = c - (u32)'+';
    return i < countof(plus_32) - 1 ? (u32)plus_32[i] - 32 : 64;
}

/* Decodes n bytes from the byte `from` on, without reading what is before them. False if anything
 * but base64 is in their place, or `from` is beyond all roots. Three bytes are four characters:
 * each byte begins in one and ends in the next, which stands in the same line. */
static b32 pem_decode(const pem_entry *e, iz from, iz n, u8 *out)
{
    if (from > CERT_ROOT_SIZE)
        return 0;
    u32 at = (u32)from + ((u32)from * 0xaaab >> 17); /* and a third, exact below 2^16 */
    u32 width = (u32)e->width, line = at / width, across = at - line * width;
    iz start = line * e->pitch + across;
    for (iz i = 0; i < n; i++) {
        if (start + 2 > e->text.len)
            return 0;
        u32 shift = 2 * (across & 3); /* 0, 2 or 4 */
        u32 first = base64_value(e->text.ptr[start]), next = base64_value(e->text.ptr[start + 1]);
        if ((first | next) > 63)
            return 0;
        out[i] = (u8)(first << (2 + shift) | next >> (4 - shift));
        u32 step = shift < 4 ? 1 : 2;
        start += step;
        across += step;
        if (across == width) { /* the line's end */
            start += e->pitch - width;
            across = 0;
        }
    }
    return 1;
}

/* Reads the header of the next item; then its contents come next. Gives their length, or -1. */
static iz pem_header(pem_entry *e)
{
    u8 bytes[4]; /* enough for lengths under 64 KB; two are for those under 128 */
    iz n = 2;
    b32 good = pem_decode(e, e->at, n, bytes);
    if (good && bytes[1] >= 0x80)
        good = pem_decode(e, e->at, n = countof(bytes), bytes);
    if (!good)
        return -1;
    reader r = reader_of((str){bytes, n});
    iz len = der_header(&r);
    e->at += r.at - bytes;
    return r.error ? -1 : len;
}

/* Measures the entry that begins at `at`, with a line before the base64: the width of its lines,
 * and the certificate's size. Gives the place in the bundle where it ends, or 0 if its last line is
 * not where these put it. */
static iz pem_measure(str bundle, iz at, pem_entry *e)
{
    e->text = str_from(bundle, at);
    str_cut(&e->text, '\n');
    e->pitch = str_find(e->text, '\n') + 1;
    iz ending = str_at(e->text, e->pitch - 2) == '\r' ? 2 : 1;
    e->width = e->pitch - ending;
    if (e->width < 8 || e->width % 4)
        return 0;
    e->at = 0;
    iz len = pem_header(e);
    e->size = e->at + len;
    iz chars = (e->size + 2) / 3 * 4;
    iz end = chars + (chars - 1) / e->width * ending;
    str last = str_from(S("\r\n-----END CERTIFICATE-----"), 2 - ending);
    b32 ended = len > 0 && str_has_at(e->text, end, last);
    return ended ? e->text.ptr - bundle.ptr + end + last.len : 0;
}

/* The next entry from *at on that looks well formed; *at then is behind it. */
static b32 pem_next(str bundle, iz *at, pem_entry *e)
{
    for (; *at < bundle.len; ++*at) {
        iz end = 0;
        if (str_has_at(bundle, *at, S("-----BEGIN CERTIFICATE-----")))
            end = pem_measure(bundle, *at, e);
        if (end) {
            e->whole = str_span(bundle, *at, end);
            *at = end;
            return 1;
        }
    }
    return 0;
}

/* Is the entry, just measured, a certificate for this subject, a whole item? Goes into the
 * TBSCertificate, steps over version, serial number, algorithm, issuer and validity, then decodes
 * what could be it. One of version 1 has no version field and is missed; it would be of no use. */
static b32 pem_is_for(pem_entry *e, str subject, u8 room[CERT_ROOT_SIZE])
{
    iz start = 0, len = pem_header(e);
    for (i32 item = 0; item < 6 && len >= 0; item++) {
        start = e->at;
        len = pem_header(e);
        e->at += len;
    }
    return len >= 0 && e->at - start == subject.len && e->at <= e->size &&
           e->size <= CERT_ROOT_SIZE && pem_decode(e, start, subject.len, room) &&
           str_eq((str){room, subject.len}, subject);
}

/* Decodes what could be an issuer of the top: is its subject the right one? */
static b32 path_try(path_node *top, str der)
{
    certificate *c = &top[1].cert;
    cert_decode(c, der);
    return str_eq(c->subject, top->cert.issuer);
}

/* The next certificate of the bundle whose subject is the issuer of the top. What cannot be read
 * is passed over. */
static b32 path_next_root(path_search *s, path_node *top)
{
    pem_entry *e = &s->query->root;
    while (pem_next(s->query->bundle, &top->next_root, e))
        if (pem_is_for(e, top->cert.issuer, s->root) && pem_decode(e, 0, e->size, s->root) &&
            path_try(top, (str){s->root, e->size}))
            return 1;
    return 0;
}

/* The next of those sent whose subject is the issuer of the top, but none whose name and key are
 * in the path already. */
static b32 path_next_sent(path_search *s, path_node *top)
{
    const certificate *c = &top[1].cert;
    while (top->next_sent < s->count) {
        b32 fit = path_try(top, s->certs[top->next_sent++]);
        for (const path_node *n = s->path; n <= top; n++)
            if (str_eq(c->identity, n->cert.identity))
                fit = 0;
        if (fit)
            return 1;
    }
    return 0;
}

/* The next certificate that could be the issuer of the top. A leaf's is most often among those
 * sent; above it, roots are tried first, since that makes the shortest path. */
static b32 path_next_issuer(path_search *s, path_node *top)
{
    for (; top->phase < 2; top->phase++) {
        s->anchored = (top->phase == 0) == (top > s->path);
        if (s->anchored ? path_next_root(s, top) : path_next_sent(s, top))
            return 1;
    }
    return 0;
}

/* Checks an issuer of the top (RFC 5280 section 6.1.4 and 6.1.3), given all that is below. */
static err path_check_issuer(path_search *s, const path_node *top)
{
    const certificate *c = &top[1].cert;
    err error = cert_check(c, s->query->now, s->anchored);
    if (error)
        return error;
    if (!c->ca)
        return E_CertNotCa;
    if (!(c->usage & USAGE_CERT_SIGN))
        return E_CertKeyUsage;
    iz below = 0;
    for (const path_node *n = s->path + 1; n <= top; n++)
        below += !n->cert.self_issued;
    if (c->path_len >= 0 && below > c->path_len)
        return E_CertPathLength;
    if (!s->anchored && s->query->path_len == PATH_CERTS)
        return E_CertPathTooLong;
    if (s->query->checks == PATH_CHECKS)
        return E_CertSearchBound;
    s->query->checks++;
    error = key_verify(&c->key, top->cert.sig, top->cert.signed_part, top->cert.signature);
    if (error)
        return error == E_SignatureBad ? E_CertSignatureBad : error;
    return constraints_check(s, c->constraints);
}

/* Makes a certificate the top of the path; its issuers are still to be tried. */
static void path_push(path_search *s, path_node *top, iz index)
{
    wipe(top, (iz) __builtin_offsetof(path_node, cert));
    s->top = top;
    s->query->path[s->query->path_len++] = index;
}

/* Searches a path from path[0] to a root. Not inlined: a pointer to the search makes shorter code
 * than its place on the stack. */
static __attribute__((noinline)) err path_find(path_search *s)
{
    err refusal = E_None;
    const path_node *farthest = s->path; /* the refusal's place above the leaf */
    while (s->query->path_len) {
        path_node *top = s->top;
        b32 found = path_next_issuer(s, top);
        err error = found ? path_check_issuer(s, top) : E_CertIssuerUnknown;
        if (error == E_CertSearchBound || (!error && s->anchored))
            return error;
        if (error && farthest <= top && (found || !top->any_issuer)) {
            refusal = error;
            farthest = top + 1;
        }
        top->any_issuer |= found;
        if (!error)
            path_push(s, top + 1, top->next_sent - 1);
        if (!found && --s->query->path_len)
            s->top--;
    }
    return refusal;
}

/* Is the host, an address or a DNS name, one of the certificate's names? */
static err cert_check_host(const certificate *c, const general_name *host)
{
    b32 found = 0;
    reader r = reader_of(c->names);
    while (reader_left(&r)) {
        general_name name;
        name_next(&r, 0, &name);
        if (name.form == host->form &&
            (name.form == NAME_IP ? str_eq(name.value, host->value)
                                  : name_covers(name.value, host->value)))
            found = 1;
    }
    return r.error ? r.error : found ? E_None : E_CertNameMismatch;
}

/* What is asked of the leaf by itself. */
static err cert_check_leaf(const certificate *c, str host, i64 now)
{
    address a;
    general_name name = {NAME_DNS, host};
    if (!address_of(host, &a))
        name = (general_name){NAME_IP, {a.ip, a.v6 ? 16 : 4}};
    else if (!host_valid(host))
        return E_CertHostName;
    err error = cert_check(c, now, 0);
    if (!error)
        error = cert_check_host(c, &name);
    if (error || c->ca)
        return error;
    if (c->constraints.len)
        return E_CertMalformed;
    return c->usage != USAGE_ABSENT && c->usage & USAGE_CERT_SIGN ? E_CertKeyUsage : E_None;
}

/* Checks a server's certificates, in DER, the leaf first and the others in any order, as the query
 * asks. On success the query's leaf is a key of which the server has still to prove by a signature
 * that it holds it (sig_of_scheme, key_verify). Errors: E_Cert...; for keys that section 6 refuses,
 * its own. */
static err x509_verify(x509_query *q, const str *certs, iz count)
{
    path_search s;
    q->path_len = q->checks = 0;
    if (count < 1)
        return E_CertMalformed;
    s.query = q;
    s.certs = certs;
    s.count = count;
    s.name_checks = 0;
    path_push(&s, s.path, 0);
    cert_decode(&s.path[0].cert, certs[0]);
    err error = cert_check_leaf(&s.path[0].cert, q->host, q->now);
    if (!error)
        error = path_find(&s);
    if (error) {
        q->path_len = 0;
        return error;
    }
    q->leaf = s.path[0].cert.key;
    q->until = s.path[0].cert.not_after;
    for (const path_node *n = s.path + 1; n <= s.top + 1; n++) /* the root is behind the top */
        q->until = earlier(q->until, n->cert.not_after);
    return E_None;
}

/* ---------------------------------------------------------------------------------------------
 * 8 TLS 1.3 client
 *
 * RFC 8446, the client's side, on byte buffers: bytes from the wire go in, bytes for the wire and
 * decrypted application data come out. No socket, no clock, no allocation, no randomness of its
 * own. A record is a header of five bytes and up to 2^14 bytes of content; its content is pieces
 * of handshake messages, one alert, or application data. Suites: AES-128-GCM and AES-256-GCM where
 * the processor has AES, ChaCha20-Poly1305. Groups: x25519, whose share is sent; secp256r1, when a
 * HelloRetryRequest asks for it. Of signatures in the handshake: ECDSA on P-256 and P-384, and
 * RSASSA-PSS with an ordinary RSA key.
 *
 * The states are those of RFC 8446 appendix A.1, named after what the client waits for.
 *
 *   SERVER_HELLO: the ClientHello is queued. The answer chooses suite and group. After a
 *     HelloRetryRequest, which may come once, it is this state again with a second ClientHello. A
 *     ServerHello gives handshake keys to both sides: from then on the server's records are sealed.
 *   ENCRYPTED_EXTENSIONS: answers to what the ClientHello proposed.
 *   CERTIFICATE_OR_REQUEST: the server may ask for a certificate before it shows its own.
 *   CERTIFICATE: it has asked.
 *   CERTIFICATE_VERIFY: the chain is verified; its message stays in the buffer, as the leaf's key
 *     is a slice of it. A signature over the transcript is to prove that the server has that key.
 *   FINISHED: a MAC over the transcript is to prove that both sides saw the same. Then the client's
 *     own last flight is queued: an empty Certificate if one was asked for, and Finished.
 *   CONNECTED: application keys; data, tickets, KeyUpdates, alerts.
 *   CLOSED: the server's close_notify was seen; what it sends after that is not looked at.
 *   ENDED: after an error or tls_close. There are no keys any more.
 *
 * Invariants. The first error wins: it queues its alert, wipes all keys and ends the connection.
 * At most one record is open at a time: while application data waits for tls_consume, no further
 * byte is looked at. The handshake buffer holds one message, wherever records split it; a message
 * is looked at when it is whole, its type and length as soon as they are there. Keys change only
 * where a message ends with its record. Each thing that a server may repeat without getting
 * further has a bound. No more than TLS_RECORDS records are opened under one key, and the client
 * updates its own key when it has sealed as many (RFC 8446 section 5.5 allows 2^24.5 of full size
 * for AES-GCM). Secrets are wiped when the next ones are made from them.
 *
 * Resumption: the last ticket of a connection is left with its owner and offered once, in the next
 * ClientHello to the same host, as long as it and all certificates of that chain are valid and the
 * root stands unchanged at its place in the bundle. If the server takes it, FINISHED follows upon
 * ENCRYPTED_EXTENSIONS; a fresh key is agreed upon all the same (psk_dhe_ke).
 *
 * Left out: 0-RTT, external PSKs, client certificates, post-handshake authentication, exporters,
 * OCSP and SCT.
 * ------------------------------------------------------------------------------------------ */

/* Names and numbers of RFC 8446: types of records, of messages, of extensions, alerts. */
enum { TLS_CCS = 20, TLS_ALERT, TLS_HANDSHAKE, TLS_APPLICATION_DATA };

enum { TLS_CLIENT_HELLO = 1, TLS_SERVER_HELLO = 2, TLS_NEW_SESSION_TICKET = 4 };
enum { TLS_ENCRYPTED_EXTENSIONS = 8, TLS_CERTIFICATE = 11, TLS_CERTIFICATE_REQUEST = 13 };
enum { TLS_CERTIFICATE_VERIFY = 15, TLS_FINISHED = 20, TLS_KEY_UPDATE = 24 };
enum { TLS_MESSAGE_HASH = 254 };

enum { EXT_SERVER_NAME = 0, EXT_SUPPORTED_GROUPS = 10, EXT_SIGNATURE_ALGORITHMS = 13 };
enum { EXT_ALPN = 16, EXT_PRE_SHARED_KEY = 41, EXT_EARLY_DATA = 42, EXT_COOKIE = 44 };
enum { EXT_SUPPORTED_VERSIONS = 43, EXT_PSK_KEY_EXCHANGE_MODES = 45, EXT_KEY_SHARE = 51 };
enum { EXT_SIGNATURE_ALGORITHMS_CERT = 50 };

enum { ALERT_CLOSE_NOTIFY = 0, ALERT_UNEXPECTED_MESSAGE = 10, ALERT_BAD_RECORD_MAC = 20 };
enum { ALERT_RECORD_OVERFLOW = 22, ALERT_BAD_CERTIFICATE = 42, ALERT_CERTIFICATE_EXPIRED = 45 };
enum { ALERT_UNSUPPORTED_CERTIFICATE = 43, ALERT_ILLEGAL_PARAMETER = 47, ALERT_UNKNOWN_CA = 48 };
enum { ALERT_DECODE_ERROR = 50, ALERT_DECRYPT_ERROR = 51, ALERT_PROTOCOL_VERSION = 70 };
enum { ALERT_INTERNAL_ERROR = 80, ALERT_USER_CANCELED = 90, ALERT_MISSING_EXTENSION = 109 };
enum { ALERT_HANDSHAKE_FAILURE = 40, ALERT_UNSUPPORTED_EXTENSION = 110 };
enum { ALERT_NONE = 255 }; /* not one of them: the server has closed, or has itself sent an alert */

enum { TLS_LEGACY_VERSION = 0x0303, TLS_VERSION = 0x0304 };
enum { TLS_AES_128_GCM_SHA256 = 0x1301 };
enum { TLS_X25519 = 0x001d, TLS_SECP256R1 = 0x0017 };

typedef enum {
    TLS_WAIT_SERVER_HELLO,
    TLS_WAIT_ENCRYPTED_EXTENSIONS,
    TLS_WAIT_CERTIFICATE_OR_REQUEST,
    TLS_WAIT_CERTIFICATE,
    TLS_WAIT_CERTIFICATE_VERIFY,
    TLS_WAIT_FINISHED,
    TLS_CONNECTED,
    TLS_CLOSED,
    TLS_ENDED,
} tls_state;

/* What must be fresh and unpredictable for each connection. */
typedef struct {
    u8 random[32], session_id[32], x25519_secret[32], p256_secret[32];
} tls_entropy;

/* One direction of traffic. */
typedef struct {
    b8 on; /* records are protected */
    u8 secret[HASH_MAX], iv[AEAD_NONCE], nonce[AEAD_NONCE];
    aead key;
    u64 sequence;
} tls_keys;

/* What a connection leaves for the next one to the same server: section 4.6.1. All zeros is
 * nothing. psk is a secret: tls_session_resume wipes it when it is taken up, offered or not. Times
 * are in ms since 1970. */
typedef struct {
    iz len;            /* of the ticket; 0: there is none */
    hash_id hash;      /* the PSK is for */
    u32 age_add;       /* hides the age on the wire */
    i64 received;      /* the ticket */
    i64 until;         /* the ticket may be offered */
    i64 chain_until;   /* the certificates are valid that were shown */
    iz root, root_len; /* where the root's text begins in the bundle, and how much of it counts */
    u8 binding[HASH_MAX]; /* SHA-256 of that text and the host */
    u8 psk[HASH_MAX], ticket[TLS_TICKET_MAX];
} tls_ticket;

/* In order of the phases, but what is named most first: short offsets make short instructions. */
typedef struct {
    tls_state state;
    err error;      /* the first one */
    iz kept;        /* bytes of the Certificate message, while the leaf's key is needed */
    iz message_len; /* bytes of the current message, behind those */
    iz in_at, in_len, out_len; /* bytes of `in` looked at, and there; bytes of `out` */

    /* from the hellos */
    hash_id hash;
    aead_id cipher;
    u16 suite, group;
    b8 retried, ccs_sent;
    b8 offered, resumed; /* the ticket, in the last ClientHello; by the server, which took it */

    /* from the server's flight, and while connected */
    b8 certificate_requested;
    b8 update_owed; /* our KeyUpdate is to go out as soon as there is room */
    b8 ended;       /* the transport has no more bytes */
    b8 named;       /* server_name was sent */
    i64 now;        /* ms since 1970; the caller keeps it right when input comes */
    reader r;       /* over the message, or the vector inside it, that is being read */
    writer w;       /* the content of the record that is being written */
    u32 ccs, padding, warnings, empty, updates, tickets; /* against their limits */

    u32 cpu;            /* from the caller */
    tls_ticket *ticket; /* where to leave one; null: nowhere */

    /* from the extensions of one message; slices of it */
    u64 had; /* bits, by type: which of tls_known came */
    u16 share_group;
    str share, cookie;

    str plain; /* decrypted data not yet consumed: a slice of `in` */

    hash transcript[2];  /* of SHA-256 and SHA-384; both run until the suite is known */
    u8 digest[HASH_MAX]; /* of the transcript, when it was last asked for */

    /* the secrets: wiped together, from the first of them to `query` */
    tls_entropy entropy;     /* from the caller */
    u8 secret[HASH_MAX];     /* of RFC 8446 section 7.1: early, then handshake, then master */
    u8 resumption[HASH_MAX]; /* the resumption master secret, once connected */
    tls_ticket session;      /* as offered; then what the next ticket is for */
    tls_keys receive, send;
    x509_query query; /* its leaf: slices of the Certificate message */

    /* buffers; not cleared at the start, so that only what is used is touched */
    u8 out[TLS_OUT_MAX];
    u8 in[5 + TLS_SEALED_MAX];
    u8 message[TLS_MESSAGE_MAX + 4]; /* with the header of one that is too long behind it */
} tls;

/* ---- the end of a connection ---- */

static void tls_send_alert(tls *t, u8 alert);

static void tls_forget_keys(tls *t)
{
    wipe(&t->entropy, (iz)(__builtin_offsetof(tls, query) - __builtin_offsetof(tls, entropy)));
}

/* The first error ends the connection; later ones change nothing. Error and alert come as one
 * number, error << 8 | alert: there are many calls, and each is shorter by one argument. */
static void tls_end_with(tls *t, u32 reason)
{
    u8 alert = (u8)reason;
    if (t->error)
        return;
    t->error = (err)(reason >> 8);
    t->state = TLS_ENDED;
    if (alert != ALERT_NONE)
        tls_send_alert(t, alert);
    if (t->ticket && t->error != E_TlsTruncated) /* section 6.2; servers often just hang up */
        wipe(t->ticket, (iz)sizeof *t->ticket);
    tls_forget_keys(t);
}

static inline __attribute__((always_inline)) void tls_fail(tls *t, err error, u8 alert)
{
    tls_end_with(t, (u32)error << 8 | alert);
}

/* Fails the connection unless `truth` holds, which it gives back. */
static inline __attribute__((always_inline)) b32 tls_require(tls *t, b32 truth, err error, u8 alert)
{
    if (!truth)
        tls_fail(t, error, alert);
    return truth;
}

/* The same for what must be legal where it stands, and for what may come at this point at all. */
static inline __attribute__((always_inline)) b32 tls_legal(tls *t, b32 truth, err error)
{
    return tls_require(t, truth, error, ALERT_ILLEGAL_PARAMETER);
}

static inline __attribute__((always_inline)) b32 tls_expected(tls *t, b32 truth, err error)
{
    return tls_require(t, truth, error, ALERT_UNEXPECTED_MESSAGE);
}

/* One more of what a server may repeat, but not without end. */
static void tls_count(tls *t, u32 *counter, u32 most)
{
    tls_expected(t, ++*counter <= most, E_TlsFlood);
}

/* ---- vectors of the presentation language: RFC 8446 section 3.4 ---- */

/* The next n bytes of the message; what is not there fails the connection, as all that follows. */
static str tls_take(tls *t, iz n)
{
    str s = read_bytes(&t->r, n);
    tls_require(t, !t->r.error, E_TlsMessageForm, ALERT_DECODE_ERROR);
    return s;
}

static u32 tls_number(tls *t, iz width)
{
    return (u32)str_be(tls_take(t, width));
}

/* A vector of at least `least` bytes behind a length of `width`. */
static str tls_bytes(tls *t, iz width, iz least)
{
    str body = tls_take(t, (iz)tls_number(t, width));
    tls_require(t, body.len >= least, E_TlsMessageForm, ALERT_DECODE_ERROR);
    return body;
}

/* Narrows the reader to a vector's contents; what it returns is to be given back to tls_leave. */
static const u8 *tls_enter(tls *t, iz width, iz least)
{
    str body = tls_bytes(t, width, least);
    const u8 *end = t->r.end;
    t->r.at = body.ptr;
    t->r.end = body.ptr + body.len;
    return end;
}

/* All must have been read up to here. Whether the connection is still sound. */
static b32 tls_whole(tls *t)
{
    tls_require(t, !reader_left(&t->r), E_TlsMessageForm, ALERT_DECODE_ERROR);
    return !t->error;
}

static void tls_leave(tls *t, const u8 *end)
{
    if (!tls_whole(t))
        t->r.at = end;
    t->r.end = end;
}

/* ---- records out: RFC 8446 section 5 ---- */

/* The nonce of the next record: section 5.3. */
static const u8 *tls_nonce(tls_keys *k)
{
    copy(k->nonce, k->iv, AEAD_NONCE);
    for (iz i = 0; i < 8; i++)
        k->nonce[AEAD_NONCE - 1 - i] ^= (u8)(k->sequence >> (8 * i));
    return k->nonce;
}

/* For middleboxes: appendix D.4. Once, before the second ClientHello or the first sealed record. */
static void tls_send_ccs(tls *t)
{
    if (t->ccs_sent)
        return;
    t->w = writer_of(t->out + t->out_len, TLS_OUT_MAX - t->out_len);
    put(&t->w, S("\x14\x03\x03\x00\x01\x01"));
    t->ccs_sent = 1;
    t->out_len += t->w.len;
}

/* Opens t->w for the content of the next record; tls_send puts that on its way. There is always
 * room for an alert, the last flight or a KeyUpdate: all else leaves TLS_OUT_RESERVE free. */
static void tls_content(tls *t)
{
    if (t->send.on)
        tls_send_ccs(t);
    iz room = TLS_OUT_MAX - t->out_len - (5 + 1 + AEAD_TAG);
    invariant(room > 0);
    t->w = writer_of(t->out + t->out_len + 5, room);
}

static void tls_send(tls *t, u8 type)
{
    u8 *body = t->w.buf, outer = type;
    iz n = t->w.len;
    if (t->w.error) {
        tls_fail(t, t->w.error, ALERT_INTERNAL_ERROR);
        return;
    }
    if (t->send.on) {
        body[n++] = type;
        n += AEAD_TAG;
        outer = TLS_APPLICATION_DATA;
    }
    t->w = writer_of(body - 5, 5);
    put_be(&t->w, (u64)outer << 32 | (u64)TLS_LEGACY_VERSION << 16 | (u64)n, 5);
    t->out_len += 5 + n;
    if (t->send.on) {
        n -= AEAD_TAG;
        aead_seal(&t->send.key, tls_nonce(&t->send), written(&t->w), body, n, body + n);
        if (++t->send.sequence == TLS_RECORDS)
            t->update_owed = 1;
    }
}

static void tls_send_alert(tls *t, u8 alert)
{
    tls_content(t);
    put_byte(&t->w, alert == ALERT_CLOSE_NOTIFY ? 1 : 2);
    put_byte(&t->w, alert);
    tls_send(t, TLS_ALERT);
}

static hash_id tls_sha256(const tls *t)
{
    return t->cpu & CPU_SHA ? SHA256_CPU : SHA256;
}

static hash *tls_transcript(tls *t)
{
    return &t->transcript[t->hash == SHA384 ? SHA384 : SHA256];
}

/* ---- transcript and key schedule: RFC 8446 sections 4.4.1 and 7.1 ---- */

static str tls_secret(const tls *t, const u8 *secret)
{
    return (str){secret, hash_size(t->hash)};
}

/* The transcript is a running hash over all handshake messages. Not inlined: to find the hash in
 * its array takes more code than the call. */
static __attribute__((noinline)) void tls_transcribe(tls *t, str message)
{
    hash_add(tls_transcript(t), message);
}

/* The hash of all so far, to t->digest; the transcript goes on. */
static void tls_digest(tls *t)
{
    hash fork = *tls_transcript(t);
    hash_end(&fork, t->digest);
}

/* HKDF-Expand-Label: n bytes at out, which may lie over the secret. The context is t->digest if
 * that is asked for, else empty. */
static void tls_expand(const tls *t, const u8 *secret, const char *label, b32 digest, u8 *out, iz n)
{
    str context = digest ? tls_secret(t, t->digest) : S("");
    hkdf_expand_label(t->hash, tls_secret(t, secret), str_of_array(label, LABEL_MAX), context, out,
                      n);
}

/* Derive-Secret of the current secret, with t->digest. */
static void tls_derive(const tls *t, const char *label, u8 out[HASH_MAX])
{
    tls_expand(t, t->secret, label, 1, out, hash_size(t->hash));
}

/* The early secret: of the session's PSK, which is zeros where there is none. */
static void tls_schedule_start(tls *t)
{
    hkdf_extract(t->hash, S(""), tls_secret(t, t->session.psk), t->secret);
}

/* From early to handshake secret, with the shared secret; from there to the master secret, with
 * zeros. Then t->digest is that of the transcript again. */
static void tls_schedule_next(tls *t, str input)
{
    hash_of(t->hash, S(""), t->digest);
    tls_derive(t, "derived", t->secret);
    hkdf_extract(t->hash, tls_secret(t, t->secret), input, t->secret);
    tls_digest(t);
}

/* Traffic keys of k->secret: section 7.3. */
static void tls_set_keys(const tls *t, tls_keys *k)
{
    u8 key[32];
    tls_expand(t, k->secret, "key", 0, key, aead_key_size(t->cipher));
    tls_expand(t, k->secret, "iv", 0, k->iv, AEAD_NONCE);
    aead_init(&k->key, t->cipher, key);
    wipe(key, 32);
    k->sequence = 0;
    k->on = 1;
}

/* Those of the current secret, with t->digest. */
static void tls_derive_keys(const tls *t, tls_keys *k, const char *label)
{
    tls_derive(t, label, k->secret);
    tls_set_keys(t, k);
}

/* The next generation of a direction's keys: section 7.2. */
static void tls_next_keys(const tls *t, tls_keys *k)
{
    tls_expand(t, k->secret, "traffic upd", 0, k->secret, hash_size(t->hash));
    tls_set_keys(t, k);
}

/* verify_data of the side whose keys these are, over t->digest: section 4.4.4. Its key lies at out
 * before it. */
static void tls_verify_data(const tls *t, const tls_keys *k, u8 out[HASH_MAX])
{
    tls_expand(t, k->secret, "finished", 0, out, hash_size(t->hash));
    hmac(t->hash, tls_secret(t, out), tls_secret(t, t->digest), out);
}

/* ---- ClientHello: RFC 8446 section 4.1.2 ---- */

/* The extensions that are the same in each ClientHello. The rsa_pkcs1 schemes stand in the one list
 * of signature schemes, as section 4.2.3 has it: in TLS 1.3 they are for certificates only, and in
 * CertificateVerify they are refused. */
static const char tls_fixed_extensions[] =
    "\0\x0a\0\x06\0\x04\0\x1d\0\x17" /* supported_groups: x25519, secp256r1 */
    "\0\x0d\0\x12\0\x10"             /* signature_algorithms: */
    "\x04\x03\x05\x03"               /* ecdsa_secp256r1_sha256, ecdsa_secp384r1_sha384, */
    "\x08\x04\x08\x05\x08\x06"       /* rsa_pss_rsae_sha256, sha384, sha512, */
    "\x04\x01\x05\x01\x06\x01"       /* rsa_pkcs1_sha256, sha384, sha512 */
    "\0\x10\0\x0b\0\x09\x08http/1.1" /* application_layer_protocol_negotiation */
    "\0\x2b\0\x03\x02\x03\x04"       /* supported_versions: TLS 1.3 */
    "\0\x2d\0\x02\x01\x01";          /* psk_key_exchange_modes: psk_dhe_ke, for tickets */

/* A vector behind its length, which has `width` bytes. */
static void tls_put_vector(writer *w, iz width, str s)
{
    put_be(w, (u64)s.len, width);
    put(w, s);
}

/* Puts the number of bytes from `start` on into the two before it. */
static void tls_put_length(writer *w, iz start)
{
    iz n = w->len - start;
    w->buf[start - 2] = (u8)(n >> 8);
    w->buf[start - 1] = (u8)n;
}

/* pre_shared_key, always the last: the ticket, its age, and room for the binder. */
static void tls_put_ticket(tls *t)
{
    writer *w = &t->w;
    const tls_ticket *k = &t->session;
    u64 n = (u64)hash_size(k->hash), len = (u64)k->len;
    put_be(w, (u64)EXT_PRE_SHARED_KEY << 32 | (len + n + 11) << 16 | (len + 6), 6);
    tls_put_vector(w, 2, (str){k->ticket, k->len});
    put_be(w, (u32)(t->now - k->received) + k->age_add, 4);
    put_be(w, (n + 1) << 8 | n, 3);
    put(w, (str){t->digest, (iz)n}); /* anything that is no secret */
}

/* The key of binders, to where the client's secrets lie: section 7.1. */
static void tls_binder_key(tls *t)
{
    tls_schedule_start(t);
    hash_of(t->hash, S(""), t->digest);
    tls_derive(t, "res binder", t->send.secret);
}

/* Puts the binder into its room at the end of a ClientHello: it shows, over the transcript so far
 * and all of the message before the binders, that we have the PSK (section 4.2.11.2). */
static void tls_bind(tls *t)
{
    writer *w = &t->w;
    iz end = w->len - hash_size(t->hash);
    hash fork = *tls_transcript(t);
    tls_binder_key(t);
    hash_add(&fork, str_span(written(w), 0, end - 3));
    hash_end(&fork, t->digest);
    tls_verify_data(t, &t->send, w->buf + end);
}

/* The first ClientHello, or the second with the cookie that was asked for, if any. Its length and
 * that of its extensions are filled in at the end. */
static void tls_client_hello(tls *t)
{
    tls_content(t);
    writer *w = &t->w;
    b32 x = t->group == TLS_X25519;
    u8 share[65];
    w->cap -= w->cap < TLS_OUT_RESERVE ? w->cap : TLS_OUT_RESERVE;
    if (x)
        x25519_public(share, t->entropy.x25519_secret);
    else
        w->error = p256_public(share, t->entropy.p256_secret);
    put(w, S("\1\0\0\0\3\3"));
    put(w, (str){t->entropy.random, 32});
    tls_put_vector(w, 1, (str){t->entropy.session_id, 32});
    /* suites, null compression, and the length of the extensions */
    str aes = S("\0\6\x13\x01\x13\x03\x13\x02\1\0\0\0"), none = S("\0\2\x13\x03\1\0\0\0");
    put(w, t->cpu & CPU_AES ? aes : none);
    iz start = w->len;
    if (t->named) { /* a list of one name, of type host_name, 0 */
        u64 n = (u64)t->query.host.len;
        put_be(w, (u64)EXT_SERVER_NAME << 32 | (n + 5) << 16 | (n + 3), 6);
        tls_put_vector(w, 3, t->query.host);
    }
    put(w, (str){(const u8 *)tls_fixed_extensions, (iz)sizeof tls_fixed_extensions - 1});
    if (t->cookie.len) {
        put_be(w, (u64)EXT_COOKIE << 16 | (u64)(t->cookie.len + 2), 4);
        tls_put_vector(w, 2, t->cookie);
    }
    /* key_share: a list of one group and its share */
    put(w, str_of(x ? "\0\x33\0\x26\0\x24\0\x1d" : "\0\x33\0\x47\0\x45\0\x17", 8));
    tls_put_vector(w, 2, (str){share, x ? 32 : 65});
    t->offered = t->session.len && t->hash == t->session.hash;
    if (t->offered)
        tls_put_ticket(t);
    if (!w->error) {
        tls_put_length(w, start);
        tls_put_length(w, 4);
        if (t->offered)
            tls_bind(t);
        hash_add(&t->transcript[SHA256], written(w));
        hash_add(&t->transcript[SHA384], written(w));
    }
    tls_send(t, TLS_HANDSHAKE);
}

/* ---- extensions of the server: RFC 8446 section 4.2 ---- */

enum { IN_HELLO = 1, IN_RETRY = 2, IN_ENCRYPTED = 4, IN_CERTIFICATE = 8 };
enum { IN_REQUEST = 16, IN_TICKET = 32 }; /* these ask or offer; the others answer the client */

/* The extensions that this client knows: whether it sends them, and in which of the server's
 * messages they may come in consequence. */
static const struct {
    u8 type, sent, places;
} tls_known[] = {
    {EXT_SERVER_NAME, 1, IN_ENCRYPTED},
    {EXT_SUPPORTED_GROUPS, 1, IN_ENCRYPTED},
    {EXT_SIGNATURE_ALGORITHMS, 1, IN_REQUEST},
    {EXT_ALPN, 1, IN_ENCRYPTED},
    {EXT_PRE_SHARED_KEY, 1, IN_HELLO},
    {EXT_EARLY_DATA, 0, IN_TICKET},
    {EXT_SUPPORTED_VERSIONS, 1, IN_HELLO | IN_RETRY},
    {EXT_COOKIE, 1, IN_RETRY},
    {EXT_PSK_KEY_EXCHANGE_MODES, 1, 0},
    {EXT_SIGNATURE_ALGORITHMS_CERT, 0, IN_REQUEST},
    {EXT_KEY_SHARE, 1, IN_HELLO | IN_RETRY},
};

/* Whether that extension came in the block that was read last. */
static b32 tls_had(const tls *t, u32 type)
{
    return t->had >> type & 1;
}

/* Known but misplaced: illegal_parameter. Not asked for: unsupported_extension. What is not known
 * is passed over in the messages that ask (sections 4.3.2 and 4.6.1). */
static void tls_check_extension(tls *t, u32 type, u8 place)
{
    b32 asks = place >= IN_REQUEST, good = asks;
    for (iz i = 0; i < countof(tls_known); i++)
        if (tls_known[i].type == type) {
            b32 sent = type == EXT_SERVER_NAME ? t->named : tls_known[i].sent;
            good |= type == EXT_PRE_SHARED_KEY ? t->offered : sent;
            if (good)
                tls_legal(t, tls_known[i].places & place, E_TlsExtensionPlace);
            t->had |= (u64)1 << type;
        }
    tls_require(t, good, E_TlsExtensionUnasked, ALERT_UNSUPPORTED_EXTENSION);
}

/* What an extension in its place says. Lists of groups and schemes are of no interest beyond their
 * form: items of two bytes, at least one. */
static void tls_extension(tls *t, u32 type, u8 place)
{
    if (type == EXT_SUPPORTED_GROUPS || type == EXT_SIGNATURE_ALGORITHMS ||
        type == EXT_SIGNATURE_ALGORITHMS_CERT) {
        b32 even = tls_bytes(t, 2, 2).len % 2 == 0;
        tls_require(t, even, E_TlsMessageForm, ALERT_DECODE_ERROR);
    } else if (type == EXT_ALPN) {
        const u8 *end = tls_enter(t, 2, 2);
        b32 good = str_eq(tls_bytes(t, 1, 1), S("http/1.1"));
        tls_leave(t, end);
        if (tls_whole(t))
            tls_legal(t, good, E_TlsAlpn);
    } else if (type == EXT_PRE_SHARED_KEY) { /* the first of one; the suite is chosen by now */
        b32 first = tls_number(t, 2) == 0;
        tls_legal(t, first && t->hash == t->session.hash, E_TlsTicket);
    } else if (type == EXT_EARLY_DATA)
        tls_number(t, 4);
    else if (type == EXT_SUPPORTED_VERSIONS)
        tls_legal(t, tls_number(t, 2) == TLS_VERSION, E_TlsHelloVersion);
    else if (type == EXT_COOKIE)
        t->cookie = tls_bytes(t, 2, 1);
    else if (type == EXT_KEY_SHARE) {
        t->share_group = (u16)tls_number(t, 2);
        if (place == IN_HELLO)
            t->share = tls_bytes(t, 2, 1);
    } else if (type != EXT_SERVER_NAME) /* which is empty */
        t->r.at = t->r.end;
}

/* A block of extensions, each checked for its place and for being the only one. */
static void tls_extensions(tls *t, u8 place, iz least)
{
    u16 seen[TLS_EXTENSIONS_MAX];
    iz count = 0;
    const u8 *block_end = tls_enter(t, 2, least);
    t->had = 0;
    while (!t->error && reader_left(&t->r)) {
        u16 type = (u16)tls_number(t, 2);
        const u8 *end = tls_enter(t, 2, 0);
        iz i = 0;
        while (i < count && seen[i] != type)
            i++;
        if (tls_legal(t, i == count && i < TLS_EXTENSIONS_MAX, E_TlsExtensionTwice)) {
            seen[count++] = type;
            tls_check_extension(t, type, place);
        }
        if (!t->error)
            tls_extension(t, type, place);
        tls_leave(t, end);
    }
    tls_leave(t, block_end);
}

/* ---- ServerHello and HelloRetryRequest: RFC 8446 sections 4.1.3, 4.1.4 ---- */

/* ServerHello.random of a HelloRetryRequest: SHA-256 of "HelloRetryRequest". */
static const char tls_retry_random[] =
    "\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91"
    "\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";

/* Fails the connection unless a ServerHello is one of TLS 1.3: looked at before all else, as an
 * older one may differ in anything, and have no extensions at all. A server that could have spoken
 * TLS 1.3 marks the random of an older hello. */
static void tls_check_current(tls *t, str random)
{
    const u8 *start = t->r.at, *end = t->r.end;
    b32 current = 0;
    if (reader_left(&t->r))
        tls_enter(t, 2, 0);
    b32 framed = t->r.end == end;
    tls_require(t, framed, E_TlsMessageForm, ALERT_DECODE_ERROR);
    while (!current && !t->error && reader_left(&t->r)) {
        current = tls_number(t, 2) == EXT_SUPPORTED_VERSIONS;
        tls_bytes(t, 2, 0);
    }
    if (current)
        t->r.at = start;
    if (current || t->error)
        return;
    b32 marked = str_eq(str_span(random, 24, 31), S("DOWNGRD")) && random.ptr[31] <= 1;
    tls_legal(t, !marked, E_TlsDowngrade);
    tls_fail(t, E_TlsVersion, ALERT_PROTOCOL_VERSION);
}

/* The suites are numbered in the order of aead_id. Again it must be the one of the retry. */
static b32 tls_choose_suite(tls *t, u32 suite)
{
    u32 cipher = suite - TLS_AES_128_GCM_SHA256;
    b32 good = cipher <= CHACHA20_POLY1305 && (t->cpu & CPU_AES || cipher == CHACHA20_POLY1305) &&
               (!t->retried || t->suite == suite);
    t->suite = (u16)suite;
    t->cipher = (aead_id)cipher;
    t->hash = cipher == AES_256_GCM ? SHA384 : tls_sha256(t);
    return tls_legal(t, good, E_TlsSuite);
}

/* In the transcript the first ClientHello is replaced by its hash: section 4.4.1. */
static void tls_restart_transcript(tls *t, str retry_request)
{
    u8 head[4] = {TLS_MESSAGE_HASH, 0, 0, (u8)hash_size(t->hash)};
    hash_end(tls_transcript(t), t->digest);
    hash_init(tls_transcript(t), t->hash);
    tls_transcribe(t, (str){head, 4});
    tls_transcribe(t, tls_secret(t, t->digest));
    tls_transcribe(t, retry_request);
}

/* A HelloRetryRequest must ask for something new: the other group, a cookie to be returned. */
static void tls_retry(tls *t, str message)
{
    b32 key_share = tls_had(t, EXT_KEY_SHARE);
    b32 other = !key_share || t->share_group == TLS_SECP256R1;
    if (!tls_legal(t, other, E_TlsGroup) || !tls_legal(t, key_share || t->cookie.len, E_TlsRetry))
        return;
    tls_restart_transcript(t, message);
    t->retried = 1;
    if (key_share)
        t->group = t->share_group;
    tls_send_ccs(t);
    tls_client_hello(t);
}

/* A ServerHello: the shared secret, and from it the handshake keys of both sides. */
static void tls_agree(tls *t, str message)
{
    b32 x = t->group == TLS_X25519;
    b32 fits = t->share_group == t->group && t->share.len == (x ? 32 : 65);
    u8 shared[32];
    b32 had = tls_had(t, EXT_KEY_SHARE);
    b32 resumed = tls_had(t, EXT_PRE_SHARED_KEY); /* section 4.2.11 has an alert of its own */
    if (!tls_require(t, had, E_TlsExtensionMissing,
                     resumed ? ALERT_ILLEGAL_PARAMETER : ALERT_MISSING_EXTENSION) ||
        !tls_legal(t, fits, E_TlsGroup))
        return;
    err error = x ? x25519(shared, t->entropy.x25519_secret, t->share.ptr)
                  : p256_ecdh(shared, t->entropy.p256_secret, t->share);
    if (tls_legal(t, !error, error)) {
        tls_transcribe(t, message);
        t->resumed = resumed;
        if (!resumed)
            wipe(&t->session, (iz)sizeof t->session);
        tls_schedule_start(t);
        tls_schedule_next(t, (str){shared, 32});
        tls_derive_keys(t, &t->send, "c hs traffic");
        tls_derive_keys(t, &t->receive, "s hs traffic");
        wipe(&t->entropy, (iz)sizeof t->entropy);
    }
    wipe(shared, 32);
}

static void tls_server_hello(tls *t, str message)
{
    u32 version = tls_number(t, 2);
    str random = tls_take(t, 32);
    b32 echoed = str_eq(tls_bytes(t, 1, 0), (str){t->entropy.session_id, 32});
    u32 suite = tls_number(t, 2);
    echoed &= !tls_number(t, 1); /* compression */
    tls_check_current(t, random);
    if (t->error)
        return;
    b32 retry = str_eq(random, (str){(const u8 *)tls_retry_random, 32});
    if (!tls_expected(t, !retry || !t->retried, E_TlsRetry) ||
        !tls_legal(t, version == TLS_LEGACY_VERSION, E_TlsHelloVersion) ||
        !tls_legal(t, echoed, E_TlsHelloEcho) || !tls_choose_suite(t, suite))
        return;
    tls_extensions(t, retry ? IN_RETRY : IN_HELLO, 0);
    if (!tls_whole(t))
        return;
    if (retry)
        tls_retry(t, message);
    else
        tls_agree(t, message);
}

/* ---- the server's flight: RFC 8446 sections 4.3, 4.4 ---- */

/* certificate_request_context: empty in every handshake (sections 4.3.2, 4.4.2), hence also in the
 * answer to the request. */
static void tls_check_context(tls *t)
{
    tls_legal(t, !tls_bytes(t, 1, 0).len, E_TlsRequestContext);
}

/* Who may sign and how is for clients that have a certificate; only the form is checked. */
static void tls_certificate_request(tls *t)
{
    tls_check_context(t);
    tls_extensions(t, IN_REQUEST, 2);
    b32 schemes = tls_had(t, EXT_SIGNATURE_ALGORITHMS);
    tls_require(t, schemes, E_TlsExtensionMissing, ALERT_MISSING_EXTENSION);
    t->certificate_requested = 1;
}

/* The alert that tells the server what is wrong with its chain: section 6.2. */
static u8 tls_certificate_alert(err error)
{
    if (error == E_CertExpired || error == E_CertNotYetValid)
        return ALERT_CERTIFICATE_EXPIRED;
    if (error == E_CertKeyUnsupported || error == E_CertSignatureUnsupported)
        return ALERT_UNSUPPORTED_CERTIFICATE;
    return error == E_CertIssuerUnknown ? ALERT_UNKNOWN_CA : ALERT_BAD_CERTIFICATE;
}

/* What ties a ticket to the host and to the root: SHA-256 of both. */
static void tls_ticket_binding(const tls *t, const tls_ticket *k, u8 out[HASH_MAX])
{
    hash h;
    hash_init(&h, tls_sha256(t));
    hash_add(&h, str_span(t->query.bundle, k->root, k->root + k->root_len));
    hash_add(&h, t->query.host);
    hash_end(&h, out);
}

/* The session is for the host and root of a chain that was just verified. */
static void tls_session_start(tls *t)
{
    const x509_query *q = &t->query;
    t->session.chain_until = q->until * 1000;
    t->session.root = q->root.whole.ptr - q->bundle.ptr;
    t->session.root_len = q->root.whole.len;
    tls_ticket_binding(t, &t->session, t->session.binding);
}

/* Takes up the ticket that is there, if it still fits, and takes it away: each is offered once. */
static void tls_session_resume(tls *t)
{
    u8 binding[HASH_MAX];
    const tls_ticket *k = t->ticket;
    if (k->len && k->received <= t->now && t->now < k->until &&
        k->root + k->root_len <= t->query.bundle.len) {
        tls_ticket_binding(t, k, binding);
        if (str_eq((str){binding, 32}, (str){k->binding, 32})) {
            t->session = *k;
            t->hash = k->hash;
        }
    }
    wipe(t->ticket, (iz)sizeof *t->ticket);
}

static void tls_certificate(tls *t)
{
    str certs[TLS_CERTIFICATES_MAX];
    iz count = 0;
    tls_check_context(t);
    const u8 *end = tls_enter(t, 3, 0);
    while (reader_left(&t->r) && count < TLS_CERTIFICATES_MAX) {
        certs[count++] = tls_bytes(t, 3, 1);
        tls_extensions(t, IN_CERTIFICATE, 0); /* there are none that would be in place */
    }
    b32 all = !reader_left(&t->r);
    if (!tls_require(t, count > 0, E_TlsCertificateCount, ALERT_DECODE_ERROR) ||
        !tls_require(t, all, E_TlsCertificateCount, ALERT_BAD_CERTIFICATE))
        return;
    tls_leave(t, end);
    if (!tls_whole(t))
        return;
    err error = x509_verify(&t->query, certs, count);
    if (!tls_require(t, !error, error, tls_certificate_alert(error)))
        return;
    tls_session_start(t);
    t->kept = t->message_len;
}

enum { TLS_SIGNED_MAX = 64 + 34 + HASH_MAX };

/* What the server signs: t->digest, told apart from all else that its key may sign. */
static str tls_signed_content(const tls *t, u8 buffer[TLS_SIGNED_MAX])
{
    writer w = writer_of(buffer, TLS_SIGNED_MAX);
    memset(buffer, ' ', 64);
    w.len = 64;
    put(&w, S("TLS 1.3, server CertificateVerify\0"));
    put(&w, tls_secret(t, t->digest));
    return written(&w);
}

/* t->digest: of the transcript before this message (section 4.4.3). */
static void tls_certificate_verify(tls *t)
{
    u8 buffer[TLS_SIGNED_MAX];
    sig_id id = SIG_WEAK;
    u32 scheme = tls_number(t, 2);
    str signature = tls_bytes(t, 2, 0);
    if (!tls_whole(t))
        return;
    err error = sig_of_scheme(scheme, &t->query.leaf, &id);
    if (!tls_require(t, error != E_CertKeyUsage, error, ALERT_BAD_CERTIFICATE) ||
        !tls_legal(t, !error, E_TlsScheme))
        return;
    error = key_verify(&t->query.leaf, id, tls_signed_content(t, buffer), signature);
    tls_require(t, !error, E_TlsCertificateVerify, ALERT_DECRYPT_ERROR);
    t->kept = 0;
}

/* The client's second flight, in one record, under the handshake keys. */
static void tls_send_flight(tls *t)
{
    u8 mine[HASH_MAX];
    tls_content(t);
    if (t->certificate_requested)
        put(&t->w, S("\x0b\0\0\4\0\0\0\0")); /* Certificate: no context, no certificate */
    iz start = t->w.len;
    tls_transcribe(t, written(&t->w));
    tls_digest(t);
    tls_verify_data(t, &t->send, mine);
    put_be(&t->w, (u64)TLS_FINISHED << 24 | (u64)hash_size(t->hash), 4);
    put(&t->w, tls_secret(t, mine));
    tls_transcribe(t, str_from(written(&t->w), start));
    tls_send(t, TLS_HANDSHAKE);
}

/* t->digest: of the transcript before this message, which by now holds it. */
static void tls_finished(tls *t)
{
    u8 theirs[HASH_MAX], client[HASH_MAX];
    str data = tls_take(t, hash_size(t->hash));
    if (!tls_whole(t))
        return;
    tls_verify_data(t, &t->receive, theirs);
    b32 same = ct_equal(data.ptr, theirs, data.len) != 0;
    wipe(theirs, HASH_MAX);
    if (!tls_require(t, same, E_TlsFinished, ALERT_DECRYPT_ERROR))
        return;
    wipe(client, HASH_MAX);
    tls_schedule_next(t, tls_secret(t, client));
    tls_derive(t, "c ap traffic", client);
    tls_derive_keys(t, &t->receive, "s ap traffic");
    tls_send_flight(t);
    tls_digest(t);
    tls_derive(t, "res master", t->resumption);
    copy(t->send.secret, client, HASH_MAX);
    tls_set_keys(t, &t->send);
    wipe(client, HASH_MAX);
    wipe(t->secret, HASH_MAX);
    wipe(t->session.psk, HASH_MAX);
}

/* ---- after the handshake: RFC 8446 section 4.6 ---- */

/* The last ticket is kept. A lifetime of over 7 days is the server's mistake, which the RFC has
 * clients shorten rather than refuse. */
static void tls_new_session_ticket(tls *t)
{
    tls_ticket *k = t->ticket;
    i64 life = tls_number(t, 4);
    u32 age_add = tls_number(t, 4);
    str nonce = tls_bytes(t, 1, 0), ticket = tls_bytes(t, 2, 1);
    tls_extensions(t, IN_TICKET, 0);
    tls_count(t, &t->tickets, TLS_TICKETS_MAX);
    if (!tls_whole(t) || !k || nonce.len > CONTEXT_MAX || ticket.len > TLS_TICKET_MAX)
        return;
    *k = t->session;
    k->len = ticket.len;
    k->hash = t->hash;
    k->age_add = age_add;
    k->received = t->now;
    k->until = earlier(k->chain_until, t->now + earlier(life, TLS_TICKET_LIFE) * 1000);
    copy(k->ticket, ticket.ptr, ticket.len);
    hkdf_expand_label(t->hash, tls_secret(t, t->resumption), S("resumption"), nonce, k->psk,
                      hash_size(t->hash));
}

/* Whether the handshake is done, without an error since. */
static b32 tls_ready(const tls *t)
{
    return t->state == TLS_CONNECTED || t->state == TLS_CLOSED;
}

/* Our own KeyUpdate, when one is owed and there is room for it. */
static void tls_send_update(tls *t)
{
    if (!t->update_owed || !tls_ready(t) || TLS_OUT_MAX - t->out_len < TLS_OUT_RESERVE)
        return;
    t->update_owed = 0;
    tls_content(t);
    put(&t->w, S("\x18\0\0\1\0")); /* update_not_requested */
    tls_send(t, TLS_HANDSHAKE);
    tls_next_keys(t, &t->send);
}

static void tls_key_update(tls *t)
{
    u32 request = tls_number(t, 1);
    if (!tls_whole(t) || !tls_legal(t, request <= 1, E_TlsKeyUpdate))
        return;
    tls_next_keys(t, &t->receive);
    t->update_owed |= request;
    tls_count(t, &t->updates, TLS_UPDATES_MAX);
}

/* ---- handshake messages: RFC 8446 section 4 ---- */

/* The edges of the state machine: the messages that each state takes, and the states after them. */
static const struct {
    u8 state, type, next;
} tls_edges[] = {
    {TLS_WAIT_SERVER_HELLO, TLS_SERVER_HELLO, TLS_WAIT_ENCRYPTED_EXTENSIONS},
    {TLS_WAIT_ENCRYPTED_EXTENSIONS, TLS_ENCRYPTED_EXTENSIONS, TLS_WAIT_CERTIFICATE_OR_REQUEST},
    {TLS_WAIT_CERTIFICATE_OR_REQUEST, TLS_CERTIFICATE_REQUEST, TLS_WAIT_CERTIFICATE},
    {TLS_WAIT_CERTIFICATE_OR_REQUEST, TLS_CERTIFICATE, TLS_WAIT_CERTIFICATE_VERIFY},
    {TLS_WAIT_CERTIFICATE, TLS_CERTIFICATE, TLS_WAIT_CERTIFICATE_VERIFY},
    {TLS_WAIT_CERTIFICATE_VERIFY, TLS_CERTIFICATE_VERIFY, TLS_WAIT_FINISHED},
    {TLS_WAIT_FINISHED, TLS_FINISHED, TLS_CONNECTED},
    {TLS_CONNECTED, TLS_NEW_SESSION_TICKET, TLS_CONNECTED},
    {TLS_CONNECTED, TLS_KEY_UPDATE, TLS_CONNECTED},
};

/* The state after a message of that type; TLS_ENDED if it is not due. */
static tls_state tls_state_after(const tls *t, u8 type)
{
    for (iz i = 0; i < countof(tls_edges); i++)
        if (tls_edges[i].state == t->state && tls_edges[i].type == type)
            return (tls_state)tls_edges[i].next;
    return TLS_ENDED;
}

/* One whole message. `last`: it ends with its record, as it must before a change of keys. The state
 * changes only here, after a message without fault. */
static void tls_message(tls *t, str message, tls_state next, b32 last)
{
    u8 type = message.ptr[0];
    last |= type != TLS_SERVER_HELLO && type != TLS_FINISHED && type != TLS_KEY_UPDATE;
    if (!tls_expected(t, last, E_TlsKeyChange))
        return;
    if (t->state != TLS_WAIT_SERVER_HELLO && t->state != TLS_CONNECTED) {
        tls_digest(t);
        tls_transcribe(t, message);
    }
    t->r = reader_of(str_from(message, 4));
    if (type == TLS_SERVER_HELLO) {
        tls_server_hello(t, message);
        if (!t->receive.on) /* after a HelloRetryRequest */
            next = TLS_WAIT_SERVER_HELLO;
    } else if (type == TLS_ENCRYPTED_EXTENSIONS) {
        tls_extensions(t, IN_ENCRYPTED, 0);
        if (t->resumed)
            next = TLS_WAIT_FINISHED;
    } else if (type == TLS_CERTIFICATE_REQUEST)
        tls_certificate_request(t);
    else if (type == TLS_CERTIFICATE)
        tls_certificate(t);
    else if (type == TLS_CERTIFICATE_VERIFY)
        tls_certificate_verify(t);
    else if (type == TLS_FINISHED)
        tls_finished(t);
    else if (type == TLS_NEW_SESSION_TICKET)
        tls_new_session_ticket(t);
    else {
        invariant(type == TLS_KEY_UPDATE);
        tls_key_update(t);
    }
    if (tls_whole(t))
        t->state = next;
}

/* A message's size with its header. */
static iz tls_message_size(const u8 *m)
{
    return 4 + (iz)str_be((str){m + 1, 3});
}

/* Handshake bytes of one record: parts of messages, or several. A message's type and size are
 * judged as soon as its header is whole. */
static void tls_handshake(tls *t, str content)
{
    while (content.len && !t->error) {
        u8 *m = t->message + t->kept;
        b32 headed = t->message_len >= 4;
        iz size = headed ? tls_message_size(m) : 4, n = size - t->message_len;
        n = n < content.len ? n : content.len;
        copy(m + t->message_len, content.ptr, n);
        t->message_len += n;
        content = str_from(content, n);
        if (t->message_len < 4)
            return;
        size = tls_message_size(m);
        tls_state next = tls_state_after(t, m[0]);
        if (!tls_expected(t, next != TLS_ENDED, E_TlsMessageOrder) ||
            !tls_legal(t, size <= TLS_MESSAGE_MAX - t->kept, E_TlsMessageSize))
            return;
        if (t->message_len == size) {
            tls_message(t, (str){m, size}, next, !content.len);
            t->message_len = 0;
        }
    }
}

/* ---- records in: RFC 8446 section 5 ---- */

/* Alerts have levels for history's sake; all but two kinds end the connection: section 6. */
static void tls_alert(tls *t, str content)
{
    if (!tls_require(t, content.len == 2, E_TlsAlertForm, ALERT_DECODE_ERROR))
        return;
    u8 alert = content.ptr[1];
    b32 closure = alert == ALERT_CLOSE_NOTIFY || alert == ALERT_USER_CANCELED;
    if (!closure) {
        if (alert == ALERT_PROTOCOL_VERSION)
            tls_fail(t, E_TlsVersion, ALERT_NONE);
        if (alert == ALERT_HANDSHAKE_FAILURE && t->state == TLS_WAIT_SERVER_HELLO)
            tls_fail(t, E_TlsNothingShared, ALERT_NONE);
        tls_fail(t, E_TlsPeerAlert, ALERT_NONE);
    } else if (t->message_len)
        tls_expected(t, 0, E_TlsInterleaved);
    else if (alert == ALERT_USER_CANCELED)
        tls_count(t, &t->warnings, TLS_WARNINGS_MAX);
    else if (t->state != TLS_CONNECTED)
        tls_fail(t, E_TlsClosed, ALERT_CLOSE_NOTIFY);
    else
        t->state = TLS_CLOSED;
}

static void tls_application_data(tls *t, str content)
{
    if (!tls_expected(t, t->state == TLS_CONNECTED, E_TlsRecordType) ||
        !tls_expected(t, !t->message_len, E_TlsInterleaved))
        return;
    if (!content.len) {
        tls_count(t, &t->empty, TLS_EMPTY_MAX);
        return;
    }
    t->plain = content;
    t->empty = t->updates = t->tickets = 0;
}

/* change_cipher_spec, in the clear: dropped if it is the one of appendix D.4, between the first
 * ClientHello and the server's Finished. */
static void tls_ccs(tls *t, str content)
{
    b32 good = t->state != TLS_CONNECTED && str_eq(content, S("\1"));
    if (tls_expected(t, good, E_TlsChangeCipherSpec) &&
        tls_expected(t, !t->message_len, E_TlsInterleaved))
        tls_count(t, &t->ccs, TLS_CCS_MAX);
}

/* Opens a protected record of n bytes behind its header; gives its content and type. */
static str tls_open(tls *t, u8 *header, iz n, u8 *type)
{
    str content = {header + 5, n - AEAD_TAG};
    b32 young = t->receive.sequence < TLS_RECORDS;
    if (!tls_require(t, young, E_TlsRecordCount, ALERT_INTERNAL_ERROR) ||
        !tls_require(t, content.len >= 0, E_AeadTag, ALERT_BAD_RECORD_MAC))
        return content;
    err error = aead_open(&t->receive.key, tls_nonce(&t->receive), (str){header, 5}, header + 5,
                          content.len, header + n - AEAD_TAG + 5);
    t->receive.sequence++;
    b32 fits = content.len <= TLS_PLAIN_MAX + 1;
    if (!tls_require(t, !error, error, ALERT_BAD_RECORD_MAC) ||
        !tls_require(t, fits, E_TlsRecordLength, ALERT_RECORD_OVERFLOW))
        return content;
    while (content.len && !content.ptr[content.len - 1])
        content.len--;
    if (!tls_expected(t, content.len > 0, E_TlsRecordEmpty))
        return content;
    *type = content.ptr[--content.len];
    t->padding += t->state < TLS_CONNECTED ? (u32)(n - AEAD_TAG - 1 - content.len) : 0;
    tls_expected(t, t->padding <= TLS_PADDING_MAX, E_TlsFlood);
    return content;
}

/* The next record, if all of it is there. Its header is judged as soon as it is.
 * legacy_record_version is for nobody's use: section 5.1. */
static b32 tls_record(tls *t)
{
    u8 *header = t->in + t->in_at, type = header[0];
    iz there = t->in_len - t->in_at, n;
    if (there < 5)
        return 0;
    n = (iz)str_be((str){header + 3, 2});
    b32 sealed = t->receive.on && type != TLS_CCS;
    b32 known = sealed ? type == TLS_APPLICATION_DATA : type >= TLS_CCS && type <= TLS_HANDSHAKE;
    b32 fits = n <= (sealed ? TLS_SEALED_MAX : TLS_PLAIN_MAX);
    if (!tls_expected(t, known, E_TlsRecordType) ||
        !tls_require(t, fits, E_TlsRecordLength, ALERT_RECORD_OVERFLOW) || there < 5 + n)
        return 0;
    t->in_at += 5 + n;
    str content = sealed ? tls_open(t, header, n, &type) : (str){header + 5, n};
    if (t->error)
        return 0;
    if (type == TLS_CCS && !sealed)
        tls_ccs(t, content);
    else if (type == TLS_APPLICATION_DATA)
        tls_application_data(t, content);
    else if (type != TLS_ALERT && type != TLS_HANDSHAKE)
        tls_expected(t, 0, E_TlsRecordType);
    else if (!content.len)
        tls_expected(t, 0, E_TlsRecordEmpty);
    else if (type == TLS_ALERT)
        tls_alert(t, content);
    else
        tls_handshake(t, content);
    return 1;
}

/* Works off what is there, up to the next application data. */
static void tls_work(tls *t)
{
    b32 more = 1;
    while (more && !t->plain.len && t->state < TLS_CLOSED)
        more = tls_record(t);
    if (t->ended && !t->plain.len && t->state < TLS_CLOSED)
        tls_fail(t, E_TlsTruncated, ALERT_NONE);
    tls_send_update(t);
}

/* ---- for the caller ---- */

/* Begins a handshake with the server `host`, a DNS name or IP address in text, and queues the
 * ClientHello. The certificates are judged for the time `now`, in ms since 1970, and against the
 * roots in `bundle`, PEM text; host and bundle must last until tls_ready. `cpu` is what os_cpu
 * gives. `ticket` is what the last connection left, and where this one leaves another; it may be
 * null, and must last as long as the connection. The caller wipes its copy of the entropy. */
static void tls_start(tls *t, str host, const tls_entropy *entropy, i64 now, u32 cpu, str bundle,
                      tls_ticket *ticket)
{
    wipe(t, (iz) __builtin_offsetof(tls, out));
    t->query.host = host;
    t->query.bundle = bundle;
    t->query.now = now / 1000;
    t->now = now;
    t->cpu = cpu;
    t->ticket = ticket;
    t->named = address_of(host, &(address){0}) != E_None;
    t->entropy = *entropy;
    t->group = TLS_X25519;
    hash_init(&t->transcript[SHA256], tls_sha256(t));
    hash_init(&t->transcript[SHA384], SHA384);
    if (ticket)
        tls_session_resume(t);
    tls_client_hello(t);
    t->out[2] = 1; /* the first record's version is that of TLS 1.0: section 5.1 */
}

/* What is to go out on the wire; tls_sent takes off the first n bytes of it. There may be some
 * after an error, too: the alert. */
static str tls_output(const tls *t)
{
    return (str){t->out, t->out_len};
}

static void tls_sent(tls *t, iz n)
{
    invariant(0 <= n && n <= t->out_len);
    memmove(t->out, t->out + n, (uz)(t->out_len - n));
    t->out_len -= n;
    tls_send_update(t);
}

/* Where the next bytes from the wire go, and how many may: none while there is data to consume,
 * and none after the end. tls_input then says how many came. */
static u8 *tls_input_room(tls *t, iz *room)
{
    b32 open = !t->plain.len && t->state < TLS_CLOSED;
    if (open && t->in_at) {
        memmove(t->in, t->in + t->in_at, (uz)(t->in_len - t->in_at));
        t->in_len -= t->in_at;
        t->in_at = 0;
    }
    *room = open ? (iz)sizeof t->in - t->in_len : 0;
    return t->in + t->in_len;
}

static void tls_input(tls *t, iz n)
{
    invariant(0 <= n && n <= (iz)sizeof t->in - t->in_len);
    t->in_len += n;
    tls_work(t);
}

/* Application data, decrypted and authentic, from at most one record; tls_consume takes off the
 * first n bytes of it, wipes them and goes on to the next record. */
static str tls_plain(const tls *t)
{
    return t->plain;
}

static void tls_consume(tls *t, iz n)
{
    str rest = str_span(t->plain, n, t->plain.len);
    wipe((u8 *)t->plain.ptr, n);
    t->plain = rest;
    tls_work(t);
}

/* Whether the server has ended its data with close_notify, and all of that has been consumed. */
static b32 tls_closed(const tls *t)
{
    return t->state == TLS_CLOSED;
}

/* Seals the first bytes of data, as many as fit one record and the buffer, and returns their
 * number; zero if there is no room before tls_sent, or the handshake is not done. */
static iz tls_write(tls *t, str data)
{
    tls_send_update(t);
    if (!tls_ready(t) || t->update_owed)
        return 0;
    tls_content(t);
    iz n = t->w.cap - TLS_OUT_RESERVE < data.len ? t->w.cap - TLS_OUT_RESERVE : data.len;
    if (n <= 0)
        return 0;
    put(&t->w, str_span(data, 0, n));
    tls_send(t, TLS_APPLICATION_DATA);
    return n;
}

/* The transport has ended. E_TlsTruncated unless a close_notify stands in what came before. */
static void tls_end_of_input(tls *t)
{
    t->ended = 1;
    tls_work(t);
}

/* Queues close_notify and wipes the keys: nothing can be read or written after it. */
static void tls_close(tls *t)
{
    if (t->state == TLS_ENDED)
        return;
    tls_send_alert(t, ALERT_CLOSE_NOTIFY);
    t->state = TLS_ENDED;
    wipe((u8 *)t->plain.ptr, t->plain.len);
    t->plain = (str){0};
    tls_forget_keys(t);
}

/* ---------------------------------------------------------------------------------------------
 * 9 DNS
 *
 * From a host name to addresses, by RFC 1035: an IP literal and `localhost` stand for themselves;
 * then /etc/hosts; then the name servers of /etc/resolv.conf. A `name` is held in wire form, each
 * label after its length and the empty root label last, and in lower case, so that names compare
 * as bytes. A and AAAA are asked together: two queries with ids of their own on one socket. A
 * query is `settled` when a server has told the addresses, or that there are none.
 *
 * An `attempt` is one server, a fresh socket (so a fresh port) and fresh random ids. The socket is
 * connected: the kernel drops what does not come from the server's address and port, and reports
 * a closed port as an error. A reply counts only if id, name, type and class are those asked for
 * (RFC 5452 9.1). A truncated reply is asked for again over TCP. What is not settled is asked of
 * the next server, DNS_ROUNDS times each, inside the caller's deadline.
 *
 * All records of a reply must fit and nothing may follow them. A compression pointer leads
 * strictly backwards, so that no name can loop. Only the chain that begins at the name asked for
 * is believed, in whatever order it stands; other records are read for their form alone.
 *
 * Left out: search domains (every name is complete), the options of resolv.conf (our own waits are
 * named limits), zone indexes (%eth0), EDNS (TCP serves long answers), DNSSEC (TLS proves who
 * answers), negative caching, internationalised names (give their ASCII form), what stands in a
 * file beyond its first 64 KB, and asking for the target of an alias in turn, which is the
 * recursive server's work (RFC 1034 5.3.1).
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    u8 len;
    u8 bytes[DNS_NAME_MAX];
} dns_name;

static str dns_wire(const dns_name *name)
{
    return (str){name->bytes, name->len};
}

static b32 dns_name_eq(const dns_name *a, const dns_name *b)
{
    return str_eq(dns_wire(a), dns_wire(b));
}

/* A label behind its length, in lower case. */
static void dns_put_label(writer *w, str label)
{
    put_byte(w, (u8)label.len);
    for (iz i = 0; i < label.len; i++)
        put_byte(w, to_lower(label.ptr[i]));
}

/* A host name as text to wire form: labels of 1 to 63 letters, digits, hyphens and underscores,
 * 253 bytes in all, the last dot optional. A last label of digits alone is refused, so that what
 * looks like an address is one or an error (RFC 1123 2.1). E_NameInvalid. */
static err dns_name_of(str text, dns_name *out)
{
    writer w = writer_of(out->bytes, DNS_NAME_MAX);
    if (str_ends(text, S(".")))
        text.len--;
    if (!host_valid(text))
        return E_NameInvalid;
    while (text.len)
        dns_put_label(&w, str_cut(&text, '.'));
    put_byte(&w, 0);
    invariant(!w.error); /* 253 characters at most, plus two */
    out->len = (u8)w.len;
    return E_None;
}

/* Reads a name of a message, which r walks: expanded and in lower case (RFC 1035 3.1, 4.1.4). Each
 * pointer leads to before the run of labels that it ends, never into the header. */
static void dns_read_name(reader *r, str message, dns_name *out)
{
    writer w = writer_of(out->bytes, DNS_NAME_MAX);
    reader run, *at = r; /* r itself stays behind the first pointer */
    iz limit = r->at - message.ptr, jumps = 0;
    u8 n;
    do {
        n = read_byte(at);
        if (n < 64) {
            dns_put_label(&w, read_bytes(at, n));
            continue;
        }
        iz to = (n & 63) << 8 | read_byte(at);
        if (n < 192 || to < 12 || to >= limit || ++jumps > DNS_JUMPS_MAX)
            break;
        limit = to;
        run = reader_of(str_from(message, to));
        at = &run;
    } while (n && !at->error && !w.error);
    if (n || at->error || w.error)
        reader_fail(r, E_DnsReplyInvalid);
    out->len = (u8)w.len;
}

/* The addresses of a name: IPv4 before IPv6, otherwise in the order they came in. `ttl` is the
 * least of the records that led to them, in seconds. */
typedef struct {
    iz count;
    i64 ttl;
    address at[DNS_ADDRESSES_MAX];
} dns_answer;

/* Adds an address; when all places are taken, IPv6 gives way to IPv4 and the rest is dropped. */
static void dns_add(dns_answer *a, const address *one)
{
    iz i = a->count;
    if (i < DNS_ADDRESSES_MAX)
        a->count++;
    else if (!one->v6 && a->at[i - 1].v6)
        i--;
    else
        return;
    for (; !one->v6 && i && a->at[i - 1].v6; i--)
        a->at[i] = a->at[i - 1];
    a->at[i] = *one;
}

/* Type and class IN as a message has them, one behind the other: RFC 1035 3.2, RFC 3596 2.1. */
enum { DNS_A = 1 << 16 | 1, DNS_CNAME = 5 << 16 | 1, DNS_AAAA = 28 << 16 | 1 };

/* Writes a query for addresses of a kind, recursion desired. RFC 1035 4.1. */
static void dns_put_query(writer *w, u16 id, const dns_name *name, u32 kind)
{
    put_be(w, id, 2);
    put(w, S("\1\0\0\1\0\0\0\0\0\0")); /* flags: RD; one question; no records */
    put(w, dns_wire(name));
    put_be(w, kind, 4);
}

/* Follows a name through all the records of a reply, which r stands before; the first `answers` of
 * them are believed. Aliases in an order other than the chain's take a further walk each. */
static err dns_follow(str reply, reader r, iz answers, iz all, dns_name *name, u32 kind,
                      dns_answer *out)
{
    dns_name owner;
    iz aliases = 0, before;
    b32 found = 0;
    do {
        reader walk = r;
        before = aliases;
        for (iz i = 0; i < all; i++) {
            dns_read_name(&walk, reply, &owner);
            u32 type = (u32)read_be(&walk, 4);
            i32 ttl = (i32)read_be(&walk, 4);
            reader data = reader_of(read_bytes(&walk, (iz)read_be(&walk, 2)));
            if (walk.error)
                return E_DnsReplyInvalid;
            if (i >= answers || !dns_name_eq(&owner, name))
                continue;
            if (type == kind) {
                address a = {.v6 = kind == DNS_AAAA};
                str ip = read_bytes(&data, a.v6 ? 16 : 4);
                copy(a.ip, ip.ptr, ip.len);
                dns_add(out, &a);
                found = 1;
            } else if (type == DNS_CNAME && !found) {
                dns_read_name(&data, reply, name);
                if (++aliases > DNS_CHAIN_MAX)
                    return E_DnsChain;
            } else {
                continue;
            }
            if (data.error || reader_left(&data))
                return E_DnsReplyInvalid;
            out->ttl = earlier(out->ttl, ttl < 0 ? 0 : ttl); /* RFC 2181 8 */
        }
        if (reader_left(&walk))
            return E_DnsReplyInvalid;
    } while (!found && aliases > before);
    return found ? E_None : E_DnsNoAddress;
}

/* Reads a whole reply to the query of this id, name and kind, and adds to `out` the addresses that
 * it gives. A pure function. E_None: one at least; E_DnsStray: this answers something else;
 * E_DnsTruncated: ask again over TCP; E_DnsNoSuchName: NXDOMAIN; E_DnsNoAddress; E_DnsRefused;
 * E_DnsServerFailure: SERVFAIL and every other code; E_DnsChain; E_DnsReplyInvalid. `out` is
 * changed only when there is no error. RFC 1035 4.1. */
static err dns_parse(str reply, u16 id, const dns_name *name, u32 kind, dns_answer *out)
{
    reader r = reader_of(reply);
    dns_answer grown = *out;
    dns_name asked;
    u32 head = (u32)read_be(&r, 4), code = head & 15;
    /* QR is set, OPCODE is 0: a reply to a query */
    b32 ours = (head & 0xfffff800) == ((u32)id << 16 | 0x8000);
    u64 counts = read_be(&r, 8); /* of questions, answers and two more kinds of records */
    ours &= counts >> 48 == 1;
    iz answers = counts >> 32 & 0xffff;
    iz all = answers + (iz)((counts >> 16 & 0xffff) + (counts & 0xffff));
    dns_read_name(&r, reply, &asked);
    ours &= dns_name_eq(&asked, name) && read_be(&r, 4) == kind;
    if (r.error || !ours)
        return E_DnsStray;
    if (head & 0x0200)
        return E_DnsTruncated;
    if (code)
        return code == 3 ? E_DnsNoSuchName : code == 5 ? E_DnsRefused : E_DnsServerFailure;
    err error = dns_follow(reply, r, answers, all, &asked, kind, &grown);
    if (!error)
        *out = grown;
    return error;
}

/* The whole lines among the first DNS_ROOM bytes of a file: half a name is another name. */
static str dns_file(const char *path, u8 room[DNS_ROOM])
{
    str file = os_read(path, room, DNS_ROOM);
    if (file.len == DNS_ROOM)
        while (file.len && file.ptr[file.len - 1] != '\n')
            file.len--;
    return file;
}

/* Takes the next run of bytes that are neither blank nor control characters off the front of a
 * line; empty when none is left. */
static str dns_word(str *line)
{
    iz from = 0;
    while (from < line->len && line->ptr[from] <= ' ')
        from++;
    iz to = from;
    while (to < line->len && line->ptr[to] > ' ')
        to++;
    str word = str_span(*line, from, to);
    *line = str_from(*line, to);
    return word;
}

/* Adds the addresses that hosts(5) text gives for a name. A line that is no such thing is passed
 * over. */
static void dns_hosts(str file, const dns_name *name, dns_answer *out)
{
    while (file.len) {
        str line = str_cut(&file, '\n'), words = str_cut(&line, '#'), first = dns_word(&words);
        address a;
        dns_name alias;
        for (str w = dns_word(&words); w.len; w = dns_word(&words))
            if (!dns_name_of(w, &alias) && dns_name_eq(&alias, name) && !address_of(first, &a))
                dns_add(out, &a);
    }
}

/* The name servers of resolv.conf(5) text, port 53; 127.0.0.1 if there is none. Gives their
 * count. */
static iz dns_servers(str file, address out[DNS_SERVERS_MAX])
{
    iz n = 0;
    while (file.len && n < DNS_SERVERS_MAX) {
        str line = str_cut(&file, '\n');
        if (str_is(dns_word(&line), "nameserver") && !address_of(dns_word(&line), &out[n]))
            out[n++].port = 53;
    }
    return n ? n : dns_servers(S("nameserver 127.0.0.1"), out);
}

static b32 dns_settled(err result)
{
    return result == E_None || result == E_DnsNoSuchName || result == E_DnsNoAddress;
}

/* Is more asking useless, by the results for A and AAAA? An IPv4 address would be tried first, and
 * a name that does not exist has no AAAA record (RFC 8020). NXDOMAIN for AAAA says nothing of A:
 * some servers give it for names that have IPv4 addresses only (RFC 4074 4.2). */
static b32 dns_enough(const err results[2])
{
    return dns_settled(results[0]) && (results[0] != E_DnsNoAddress || dns_settled(results[1]));
}

/* What is being asked, of whom, and what has been told so far. */
typedef struct {
    err results[2]; /* for A and AAAA; E_TimedOut while there is none */
    i32 fd;
    b8 udp;
    i64 deadline; /* of the present attempt */
    const dns_name *name;
    dns_answer *out;
    u8 *room; /* for DNS_ROOM bytes: a file, or a reply */
} dns_question;

/* Sends a query, over TCP with its length before it in the same write (RFC 7766 8). */
static err dns_send(const dns_question *q, u16 id, u32 kind)
{
    u8 room[2 + 12 + DNS_NAME_MAX + 4];
    writer w = writer_of(room, countof(room));
    put_be(&w, 12 + (u64)q->name->len + 4, 2);
    dns_put_query(&w, id, q->name, kind);
    return os_send(q->fd, str_from(written(&w), q->udp ? 2 : 0), q->deadline);
}

/* Receives a message: a datagram, or from a stream what two bytes of length announce. */
static str dns_receive(const dns_question *q, err *error)
{
    u8 *buf = q->room;
    iz had = 0, need = 2;
    do {
        iz cap = q->udp ? DNS_REPLY_MAX : need - had;
        iz n = os_recv(q->fd, buf + had, cap, q->deadline, error);
        if (q->udp || n < 0)
            return (str){buf, n};
        if (!n)
            *error = E_Truncated;
        had += n;
        if (had == 2)
            need += buf[0] << 8 | buf[1];
    } while (!*error && had < need);
    return (str){buf + 2, need - 2};
}

static const u32 dns_kinds[2] = {DNS_A, DNS_AAAA};

/* Gives a reply to the query that it answers. E_DnsStray if there is none. */
static err dns_hear(dns_question *q, str reply, const u16 ids[2])
{
    for (iz i = 0; i < 2; i++) {
        if (q->results[i] != E_TimedOut)
            continue;
        err said = dns_parse(reply, ids[i], q->name, dns_kinds[i], q->out);
        if (said == E_DnsStray)
            continue;
        q->results[i] = said;
        return E_None;
    }
    return E_DnsStray;
}

/* Asks on a socket what has no result yet, and hears the replies. */
static err dns_exchange(dns_question *q)
{
    u16 ids[2];
    iz strays = 0;
    err error = E_None;
    os_random((u8 *)ids, sizeof ids);
    for (iz i = 0; i < 2 && !error; i++)
        if (q->results[i] == E_TimedOut)
            error = dns_send(q, ids[i], dns_kinds[i]);
    while (!error && (q->results[0] == E_TimedOut || q->results[1] == E_TimedOut)) {
        str reply = dns_receive(q, &error);
        if (!error && dns_hear(q, reply, ids) && ++strays > DNS_STRAYS_MAX)
            error = E_DnsStray;
        if (dns_enough(q->results))
            q->deadline = earlier(q->deadline, os_monotonic() + DNS_GRACE_MS * MS);
    }
    return error;
}

/* Asks one server once, over a socket of its own, for what is not settled yet. */
static void dns_attempt(dns_question *q, const address *server, b32 udp)
{
    q->udp = udp;
    for (iz i = 0; i < 2; i++)
        if (!dns_settled(q->results[i]))
            q->results[i] = E_TimedOut;
    err error = os_connect(&q->fd, server, udp, q->deadline);
    if (!error) {
        error = dns_exchange(q);
        os_close(q->fd);
    }
    for (iz i = 0; i < 2; i++)
        if (q->results[i] == E_TimedOut)
            q->results[i] = error;
}

/* One server's turn, which lasts until `deadline` or for the time of `wait`. */
static void dns_turn(dns_question *q, const address *server, i64 deadline, i64 wait)
{
    i64 now = os_monotonic();
    if (dns_enough(q->results) || time_is_up(now, deadline))
        return;
    q->deadline = time_is_up(now + wait, deadline) ? deadline : now + wait;
    dns_attempt(q, server, 1);
    if (!dns_enough(q->results))
        if (q->results[0] == E_DnsTruncated || q->results[1] == E_DnsTruncated)
            dns_attempt(q, server, 0);
}

/* Asks the servers in turn for A and AAAA, and adds what they tell. The error is that of the last
 * attempt. */
static err dns_ask(const dns_name *name, i64 deadline, dns_answer *out, u8 room[DNS_ROOM])
{
    address servers[DNS_SERVERS_MAX];
    dns_question q = {{E_TimedOut, E_TimedOut}, .name = name, .out = out, .room = room};
    iz count = dns_servers(dns_file("/etc/resolv.conf", room), servers);
    for (iz round = 0; round < DNS_ROUNDS; round++)
        for (iz i = 0; i < count; i++)
            dns_turn(&q, &servers[i], deadline, DNS_WAIT_MS * MS << round);
    if (out->count)
        return E_None;
    return q.results[0] == E_DnsNoAddress ? q.results[1] : q.results[0];
}

typedef struct {
    dns_name name;
    dns_answer answer;
    i64 until; /* monotonic, ns; 0 if the entry is free */
} dns_entry;

/* What name servers told. All zeros is an empty cache. A sandbox may be frozen and its monotonic
 * clock with it, so an entry can be older than it seems: dns_forget makes good for that. */
typedef struct {
    dns_entry entries[DNS_CACHE_MAX];
} dns_cache;

/* The entry of this name, or else the one that runs out first. */
static dns_entry *dns_cache_entry(dns_cache *cache, const dns_name *name)
{
    dns_entry *best = cache->entries;
    for (iz i = 0; i < DNS_CACHE_MAX; i++) {
        dns_entry *e = &cache->entries[i];
        if (dns_name_eq(&e->name, name))
            return e;
        if (e->until < best->until)
            best = e;
    }
    return best;
}

/* Drops what is kept of a host: for after a connect to its addresses failed. */
static void dns_forget(dns_cache *cache, str host)
{
    dns_name name;
    if (dns_name_of(host, &name))
        return;
    dns_entry *kept = dns_cache_entry(cache, &name);
    if (dns_name_eq(&kept->name, &name))
        kept->until = 0;
}

/* From the cache, the hosts file or the name servers. Only what servers tell is kept. Not inlined:
 * the start of the program does not need it (Makefile, EARLY). */
static __attribute__((noinline)) err dns_find(dns_cache *cache, const dns_name *name, i64 deadline,
                                              dns_answer *out)
{
    u8 room[DNS_ROOM];
    dns_entry *kept = dns_cache_entry(cache, name);
    if (os_monotonic() < kept->until && dns_name_eq(&kept->name, name)) {
        *out = kept->answer;
        return E_None;
    }
    dns_hosts(dns_file("/etc/hosts", room), name, out);
    if (out->count)
        return E_None;
    err error = dns_ask(name, deadline, out, room);
    if (!error && out->ttl) {
        kept->name = *name;
        kept->answer = *out;
        kept->until = os_monotonic() + out->ttl * SECOND;
    }
    return error;
}

/* Finds the addresses of a host, IPv4 before IPv6, each with port 0: an IP literal (IPv6 with or
 * without brackets), `localhost`, or a host name that dns_name_of takes. `deadline` is in
 * monotonic nanoseconds, or FOREVER, which the rounds bound too. E_NameInvalid, what dns_parse
 * gives, or the platform's errors (E_TimedOut if no server said a word, E_ConnectRefused,
 * E_Unreachable and the like). `out->count` is 0 exactly if there is an error. */
static err dns_resolve(dns_cache *cache, str host, i64 deadline, dns_answer *out)
{
    dns_name name;
    address literal;
    out->count = 0;
    out->ttl = DNS_TTL_MAX;
    if (!address_of(host, &literal)) {
        dns_add(out, &literal);
        return E_None;
    }
    if (dns_name_of(host, &name))
        return E_NameInvalid;
    dns_hosts(S("127.0.0.1 localhost\n::1 localhost\n"), &name, out);
    return out->count ? E_None : dns_find(cache, &name, deadline, out);
}

/* ---------------------------------------------------------------------------------------------
 * 10 connections
 *
 * A connection is a stream of bytes to one origin, plain or through TLS, kept open from one
 * request to the next; only here and in section 9 are sockets touched. While it is kept, the
 * sandbox may be frozen for hours and the other end gone without a notice: `kept` says that this
 * is such a connection and `heard` that a byte of the answer to the present request has come,
 * which together decide whether a request may be sent once more. The first error stays until the
 * connection is opened for the next request.
 *
 * What connections share is a `network`: the process's arena, where an engine of TLS is made when
 * a connection first needs one, and the answers of DNS. The roots are mapped for the length of a
 * handshake and not kept. Each origin has a connection of its own; there is no pool.
 *
 * It also holds what the program is at. A `stage` is entered by the code that does its work and
 * lasts until the next one is: one mechanism tells the time of each stage in an invocation's log
 * line and the section that a crash happened in. Entering one reads the clock while an invocation
 * is on, and none is read before the first event: 7 times for an answer over a kept connection, 3
 * more for one that is opened, one for its handshake and 2 where secrets are fetched. A read is a
 * system call, 0.3 us where we measured. Where the level keeps the line back the clock is left
 * alone.
 * ------------------------------------------------------------------------------------------ */

/* Where a URL leads: scheme, host (an IPv6 address in its brackets) and port. */
typedef struct {
    str host;
    u16 port;
    b8 https;
} origin;

static b32 origin_eq(const origin *a, const origin *b)
{
    return a->https == b->https && a->port == b->port && str_eq_nocase(a->host, b->host);
}

/* May it be asked at all? http only on this very machine: 127.0.0.0/8, ::1 and localhost. */
static b32 origin_is_safe(const origin *to)
{
    static const u8 v6[16] = {[15] = 1};
    address a;
    if (to->https || str_eq_nocase(to->host, S("localhost")))
        return 1;
    return !address_of(to->host, &a) && (a.v6 ? !memcmp(a.ip, v6, 16) : a.ip[0] == 127);
}

typedef enum {
    STAGE_WAIT, /* for Lambda, or before the first event */
    STAGE_EVENT,
    STAGE_DNS,
    STAGE_CONNECT,
    STAGE_HANDSHAKE,
    STAGE_HTTP, /* a request, its answer and, where it is tried again, the pause */
    STAGE_JSON,
    STAGE_SPEECH,
    STAGE_RESPOND,
    STAGE_COUNT,
} stage;

/* Its name in a log line and the section that it is the work of, as the list at the head has it. */
static str stage_name(stage s, str *section)
{
    *section = text_row(S("wait|12 Lambda Runtime API\n"
                          "event|13 Alexa\n"
                          "dns|9 DNS\n"
                          "connect|10 connections\n"
                          "handshake|8 TLS 1.3 client\n"
                          "http|11 HTTP/1.1\n"
                          "json|14 secrets, TfL and preferences\n"
                          "speech|15 speech and intents\n"
                          "respond|12 Lambda Runtime API\n"),
                        (i32)s);
    return str_cut(section, '|');
}

typedef struct {
    stage now;
    i64 since;              /* when it was entered; 0 when nobody wants the times */
    i64 spent[STAGE_COUNT]; /* ns of this invocation in each */
    iz retries;             /* of requests of this invocation, but for Lambda's */
} stages;

typedef struct {
    arena *process;
    const char *const *env;
    u32 cpu;
    b8 cpu_asked;
    stages stages;
    dns_cache dns;
} network;

/* Starts the clock for an invocation; not with `timed` unset, when nobody reads the times. */
static void stages_start(network *net, b32 timed)
{
    net->stages = (stages){.now = STAGE_EVENT, .since = timed ? os_monotonic() : 0};
}

/* Kept out of line: it has some ten callers. */
__attribute__((noinline)) static void stage_enter(network *net, stage next)
{
    stages *s = &net->stages;
    if (s->since) {
        i64 now = os_monotonic();
        s->spent[s->now] += now - s->since;
        s->since = now;
    }
    s->now = next;
}

/* How a connection came about, or that it was there before; service_put has their names. */
typedef enum { OPENED_NOT, OPENED_PLAIN, OPENED_FULL, OPENED_RESUMED, OPENED_BEFORE } opening;

typedef struct connection {
    origin to;
    network *net;
    str trace;                    /* X-Amzn-Trace-Id of requests to its own origin, or "" */
    struct connection *meanwhile; /* to be opened while the next answer is on its way, or null */
    i32 fd;                       /* -1 when closed */
    i64 deadline;                 /* of the present request */
    opening opened;               /* in the present invocation */
    b8 kept;                      /* an answer has come over this socket before */
    b8 heard;                     /* a byte of the present answer has come */
    err error;
    tls *tls;          /* made at the first handshake */
    tls_ticket ticket; /* of the last connection that gave one */
    const u8 *data;    /* received, and decrypted: in `buffer`, or in the engine's; */
    iz at, len;        /* bytes of that which are taken, and which there are */
    u8 buffer[CONNECTION_BUFFER];
} connection;

static void connection_init(connection *c, network *net, origin to)
{
    c->net = net;
    c->to = to;
    c->fd = -1;
    c->at = c->len = 0;
}

/* Kept out of line: it has some twenty callers. */
__attribute__((noinline)) static void connection_fail(connection *c, err error)
{
    if (!c->error)
        c->error = error;
}

/* Puts what the engine has for the other end on the wire. An error of the engine comes first: its
 * alert then goes out if it can. */
static void connection_flush(connection *c)
{
    str out = tls_output(c->tls);
    err error = out.len ? os_send(c->fd, out, c->deadline) : E_None;
    tls_sent(c->tls, out.len);
    connection_fail(c, c->tls->error ? c->tls->error : error);
}

/* Lets go of what was received. */
static void connection_drop(connection *c)
{
    if (c->len && c->to.https)
        tls_consume(c->tls, c->len);
    else
        wipe(c->buffer, c->len);
    c->at = c->len = 0;
}

/* Closes the socket, if it is open, and wipes what was received. A close_notify goes out if the
 * socket takes it at once: nobody waits for it. */
static void connection_close(connection *c)
{
    if (c->fd < 0)
        return;
    connection_drop(c);
    if (c->to.https && c->tls) {
        tls_close(c->tls);
        os_send(c->fd, tls_output(c->tls), 0);
    }
    os_close(c->fd);
    c->fd = -1;
}

/* Connects to the first of the host's addresses that takes it. Each gets an even share of the time
 * that is left. When none does, what DNS told is forgotten; the error is that of the first. */
static err connection_dial(connection *c)
{
    dns_answer found;
    stage_enter(c->net, STAGE_DNS);
    err first = dns_resolve(&c->net->dns, c->to.host, c->deadline, &found);
    stage_enter(c->net, STAGE_CONNECT);
    if (first)
        return first;
    for (iz i = 0; i < found.count; i++) {
        i64 until = c->deadline;
        if (until != FOREVER) {
            i64 now = os_monotonic();
            until = now + (until - now) / (found.count - i);
        }
        found.at[i].port = c->to.port;
        err error = os_connect(&c->fd, &found.at[i], 0, until);
        if (!error)
            return E_None;
        first = first ? first : error;
    }
    dns_forget(&c->net->dns, c->to.host);
    return first;
}

/* The trusted roots: SSL_CERT_FILE, or else the first of the places where systems keep them. */
static str network_roots(const network *net)
{
    static const char places[][36] = {
        "/etc/pki/tls/certs/ca-bundle.crt",   /* Amazon Linux, which Lambda runs on */
        "/etc/pki/tls/cert.pem",              /* the same */
        "/etc/ssl/certs/ca-certificates.crt", /* Debian */
        "/etc/ssl/cert.pem",                  /* Alpine */
    };
    str named = env_get(net->env, "SSL_CERT_FILE"), file = {0, 0};
    if (named.len)
        return os_map((const char *)named.ptr);
    for (iz i = 0; i < countof(places) && !file.ptr; i++)
        file = os_map(places[i]);
    return file;
}

/* Sends what is to go out, receives once and works it off. What is to go out then waits for the
 * next call, or for data to go with, as it does where `until` is 0 and no answer is waited for; but
 * an alert does not. */
static void connection_exchange(connection *c, i64 until)
{
    if (until)
        connection_flush(c);
    if (c->error)
        return;
    iz room;
    u8 *at = tls_input_room(c->tls, &room);
    iz n = os_recv(c->fd, at, room, until, &c->error);
    c->tls->now = os_unix_ms();
    if (n > 0)
        tls_input(c->tls, n);
    else if (!n)
        tls_end_of_input(c->tls);
    if (c->tls->error)
        connection_flush(c);
}

/* From the ClientHello to the server's Finished; ours goes out with the request. Errors:
 * E_RootsMissing when there is no bundle, and all that sections 7 and 8 find wrong. */
static void connection_handshake(connection *c)
{
    network *net = c->net;
    tls_entropy entropy;
    stage_enter(net, STAGE_HANDSHAKE);
    if (!c->tls)
        c->tls = arena_new(net->process, tls, 1);
    if (!net->cpu_asked)
        net->cpu = os_cpu(net->env);
    net->cpu_asked = 1;
    str roots = network_roots(net);
    if (!c->tls || !roots.len) {
        c->error = c->tls ? E_RootsMissing : E_OutOfMemory;
        os_unmap(roots);
        return;
    }
    os_random((u8 *)&entropy, sizeof entropy);
    tls_start(c->tls, c->to.host, &entropy, os_unix_ms(), net->cpu, roots, &c->ticket);
    wipe(&entropy, sizeof entropy);
    while (!c->error && !tls_ready(c->tls))
        connection_exchange(c, c->deadline);
    if (!c->error)
        c->opened = c->tls->resumed ? OPENED_RESUMED : OPENED_FULL;
    os_unmap(roots);
}

/* Receives until there is something to take, an error, or the end of the stream. */
static void connection_receive(connection *c, i64 until)
{
    connection_drop(c);
    if (c->to.https) {
        while (!c->error && !tls_plain(c->tls).len && !tls_closed(c->tls))
            connection_exchange(c, until);
        c->data = tls_plain(c->tls).ptr;
        c->len = c->error ? 0 : tls_plain(c->tls).len;
    } else {
        iz n = os_recv(c->fd, c->buffer, CONNECTION_BUFFER, until, &c->error);
        c->data = c->buffer;
        c->len = n > 0 ? n : 0;
    }
}

/* Is the kept connection fit for another request? Not when it was closed meanwhile, or when bytes
 * have come that nobody asked for (RFC 9112 section 9.2); tickets and new keys of TLS may. */
static b32 connection_is_idle(connection *c)
{
    connection_receive(c, 0);
    return c->error == E_TimedOut;
}

/* Makes ready for a request and its answer: opens a connection unless one is kept and idle. Errors:
 * of DNS, of the connect and of the handshake. */
static err connection_open(connection *c, i64 deadline)
{
    c->deadline = deadline;
    c->heard = 0;
    c->error = E_None;
    if (c->fd >= 0 && !connection_is_idle(c))
        connection_close(c);
    c->error = E_None;
    if (c->fd >= 0) {
        c->opened = c->opened ? c->opened : OPENED_BEFORE;
        return E_None;
    }
    stage before = c->net->stages.now;
    c->kept = 0;
    c->opened = OPENED_NOT;
    c->error = connection_dial(c);
    if (!c->error && c->to.https)
        connection_handshake(c);
    else if (!c->error)
        c->opened = OPENED_PLAIN;
    if (c->error)
        connection_close(c);
    stage_enter(c->net, before);
    return c->error;
}

/* Serves this origin from now on. */
static void connection_turn(connection *c, const origin *to)
{
    if (!origin_eq(&c->to, to))
        connection_close(c);
    c->to = *to;
}

/* Sends all of data. Errors stay in c->error: those of os_send and of the engine, and
 * E_ConnectionClosed after the server's close_notify or error. */
static void connection_send(connection *c, str data)
{
    if (c->error)
        return;
    if (!c->to.https) {
        c->error = os_send(c->fd, data, c->deadline);
        return;
    }
    while (data.len && !c->error) {
        if (!tls_ready(c->tls))
            connection_fail(c, E_ConnectionClosed);
        data = str_from(data, tls_write(c->tls, data));
        connection_flush(c);
    }
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
    connection_receive(c, until);
    c->heard |= c->len > 0;
    return c->len > 0;
}

/* At most n bytes of what has been received, at least one; empty at the end or after an error. */
static str connection_take(connection *c, iz n)
{
    if (!connection_fill(c))
        return (str){0, 0};
    iz left = c->len - c->at;
    str s = {c->data + c->at, n < left ? n : left};
    c->at += s.len;
    return s;
}

/* What has been received and not taken, up to the first control character and at most n bytes of
 * it; nothing is received. */
static str connection_take_line(connection *c, iz n)
{
    str rest = str_span((str){c->data, c->len}, c->at, c->len);
    iz run = 0;
    while (run < n && str_at(rest, run) >= ' ' && str_at(rest, run) != 0x7f)
        run++;
    c->at += run;
    return str_span(rest, 0, run);
}

/* ---------------------------------------------------------------------------------------------
 * 11 HTTP/1.1
 *
 * The client's side of RFC 9112. An answer is read straight off its connection, by the byte and
 * in runs of what has come, so that it makes no difference how the network cuts it. The head is
 * kept as lines "name:value\n", names in lower case, values trimmed.
 *
 * Refused, each with its own error: line ends other than CR LF; control characters; folded
 * headers; blanks before a colon; a length that is not plain digits, differs from another one or
 * comes with a transfer coding; transfer codings other than chunked, and chunked before HTTP/1.1.
 * A GET follows redirects with an absolute URL or an absolute path, and carries a token to the
 * origin that it is meant for alone.
 *
 * Left out: HTTP/2, content codings (none is asked for), upgrades, pipelining.
 * ------------------------------------------------------------------------------------------ */

typedef struct {
    i32 status;
    str head;   /* the header lines */
    b8 keep;    /* the connection can serve another request */
    i64 length; /* of the body, or HTTP_CHUNKED or HTTP_TO_END */
    str body;
} http_response;

enum { HTTP_TO_END = -1, HTTP_CHUNKED = -2 };

/* The value of the first header of that name, given in lower case; a null pointer if none. */
static str http_header(const http_response *r, const char *wanted)
{
    str head = r->head;
    while (head.len) {
        str value = str_cut(&head, '\n');
        if (str_is(str_cut(&value, ':'), wanted))
            return value;
    }
    return (str){0, 0};
}

/* The next byte of an answer, or 0 with an error: the end of the stream is one here. */
static u8 http_byte(connection *c)
{
    if (!c->error && (c->at < c->len || connection_fill(c)))
        return c->data[c->at++];
    connection_fail(c, c->heard ? E_HttpTruncated : E_ConnectionClosed);
    return 0;
}

static void http_expect(connection *c, const char *text, err error)
{
    for (; *text && !c->error; text++)
        if (http_byte(c) != (u8)*text)
            connection_fail(c, error);
}

/* Goes on with this byte to the end of a line and keeps it in `line` where one is given. `before`
 * bytes of the line come before. */
static void http_line_rest(connection *c, writer *line, iz before, u8 byte)
{
    for (iz n = before; !c->error; n++) {
        if (byte == '\r') {
            http_expect(c, "\n", E_HttpLineEnd);
            return;
        }
        if ((byte < ' ' && byte != '\t') || byte == 0x7f)
            connection_fail(c, E_HttpLineEnd);
        if (n >= HTTP_LINE_MAX)
            connection_fail(c, E_HttpLineTooLong);
        str run = connection_take_line(c, HTTP_LINE_MAX - 1 - n);
        if (line) {
            put_byte(line, byte);
            put(line, run);
        }
        n += run.len;
        byte = http_byte(c);
    }
}

/* tchar, RFC 9110 section 5.6.2; the hyphen first, as most names have one. */
static b32 http_is_token(u8 c)
{
    return is_alnum(c) || is_one_of(c, "-!#$%&'*+.^_`|~");
}

/* One header or trailer line, kept in `head` where one is given. False at the empty line that ends
 * them, and after an error. */
static b32 http_header_line(connection *c, writer *head)
{
    u8 byte = http_byte(c);
    if (byte == '\r') {
        http_expect(c, "\n", E_HttpLineEnd);
        return 0;
    }
    iz n = 0;
    for (; http_is_token(byte) && n < HTTP_LINE_MAX - 1; byte = http_byte(c), n++)
        if (head)
            put_byte(head, to_lower(byte));
    if (!c->error && (byte != ':' || !n))
        connection_fail(c, n < HTTP_LINE_MAX - 1 ? E_HttpHeader : E_HttpLineTooLong);
    if (head)
        put_byte(head, ':');
    iz start = head ? head->len : 0;
    http_line_rest(c, head, n + 1, http_byte(c));
    if (head && !head->error) {
        str value = str_trim((str){head->buf + start, head->len - start});
        memmove(head->buf + start, value.ptr, (uz)value.len);
        writer_cut(head, start + value.len);
    }
    if (head)
        put_byte(head, '\n');
    if (head && head->error)
        connection_fail(c, E_HttpHeadTooLong);
    return !c->error;
}

static void http_header_lines(connection *c, writer *head)
{
    for (iz n = 0; http_header_line(c, head); n++)
        if (n == HTTP_HEADERS_MAX)
            connection_fail(c, E_HttpTooManyHeaders);
}

/* status-line = HTTP-version SP status-code [ SP reason-phrase ]; the SP behind the code is not
 * missed where there is no phrase. Gives the minor version. */
static u8 http_status_line(connection *c, http_response *r)
{
    http_expect(c, "HTTP/1.", E_HttpStatusLine);
    u8 minor = http_byte(c);
    http_expect(c, " ", E_HttpStatusLine);
    r->status = 0;
    b32 good = is_digit(minor);
    for (iz i = 0; i < 3; i++) {
        u8 digit = http_byte(c);
        good &= is_digit(digit);
        r->status = r->status * 10 + (digit - '0');
    }
    u8 next = http_byte(c);
    if (!good || r->status < 100 || r->status > 599 || (next != ' ' && next != '\r'))
        connection_fail(c, E_HttpStatusLine);
    http_line_rest(c, 0, 12, next);
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
    str head = r->head;
    i64 length = HTTP_TO_END;
    b32 chunked = 0;
    r->keep = minor != '0';
    while (head.len) {
        str value = str_cut(&head, '\n'), name = str_cut(&value, ':');
        if (str_is(name, "content-length")) {
            u64 n;
            if (!str_to_uint(value, 1ull << 60, &n)) /* over any limit, and fits an i64 */
                return E_HttpLength;
            if (length >= 0 && length != (i64)n)
                return E_HttpLength;
            length = (i64)n;
        } else if (str_is(name, "transfer-encoding")) {
            if (minor == '0' || chunked || !str_eq_nocase(value, S("chunked")))
                return E_HttpTransferEncoding;
            chunked = 1;
        } else if (str_is(name, "connection")) {
            r->keep = r->keep && !http_list_has(value, S("close"));
        }
    }
    if (chunked && length >= 0)
        return E_HttpLength;
    b32 none = r->status == 204 || r->status == 304;
    r->length = none ? 0 : chunked ? HTTP_CHUNKED : length;
    return E_None;
}

/* Moves n bytes of the body into w; n is within the limit. */
static void http_body_run(connection *c, writer *w, i64 n)
{
    while (n && !c->error) {
        str run = connection_take(c, (iz)n);
        if (!run.len)
            connection_fail(c, E_HttpTruncated);
        put(w, run);
        n -= run.len;
    }
}

/* chunk-size [ chunk-ext ] CRLF, RFC 9112 section 7.1; at most `max`. */
static i64 http_chunk_size(connection *c, i64 max)
{
    u64 size = 0;
    iz n = 0; /* bytes of the line */
    u8 byte = http_byte(c);
    for (i32 digit; (digit = hex_value(byte)) >= 0; n++) {
        if (size >> 56 || n == HTTP_LINE_MAX)
            connection_fail(c, E_HttpChunkSize);
        size = size << 4 | (u64)digit;
        byte = http_byte(c);
    }
    if (!n)
        connection_fail(c, E_HttpChunk);
    for (; byte == ' ' || byte == '\t'; n++) { /* some servers pad */
        if (n >= HTTP_LINE_MAX)
            connection_fail(c, E_HttpLineTooLong);
        byte = http_byte(c);
    }
    if (byte != '\r' && byte != ';')
        connection_fail(c, E_HttpChunk);
    http_line_rest(c, 0, n, byte);
    if ((i64)size > max)
        connection_fail(c, E_HttpBodyTooLarge);
    return c->error ? 0 : (i64)size;
}

static void http_chunks(connection *c, writer *w)
{
    for (;;) {
        i64 size = http_chunk_size(c, w->cap - w->len);
        if (!size)
            break;
        http_body_run(c, w, size);
        http_expect(c, "\r\n", E_HttpChunk);
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
            connection_fail(c, E_HttpBodyTooLarge);
    }
}

static void http_body(connection *c, arena *a, iz max, http_response *r)
{
    if (r->length > max)
        connection_fail(c, E_HttpBodyTooLarge);
    if (c->error)
        return;
    writer w = arena_writer(a, r->length >= 0 ? (iz)r->length : max);
    if (w.cap < r->length)
        connection_fail(c, E_OutOfMemory);
    else if (r->length == HTTP_CHUNKED)
        http_chunks(c, &w);
    else if (r->length == HTTP_TO_END)
        http_until_close(c, &w);
    else
        http_body_run(c, &w, r->length);
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
            connection_fail(c, E_HttpInterim);
        minor = http_status_line(c, r);
        http_header_lines(c, &head);
    }
    str lines = arena_keep(a, &head);
    if (!c->error) {
        r->head = lines;
        connection_fail(c, http_framing(r, minor));
    }
    if (!c->error && !until_close && r->length == HTTP_TO_END)
        connection_fail(c, E_HttpNoLength);
    http_body(c, a, max, r);
    if (c->error || !r->keep || r->length == HTTP_TO_END || c->at < c->len)
        connection_close(c);
    else
        c->kept = 1;
    connection_drop(c);
    return c->error;
}

/* A base URL. The path has no slash at its end. */
typedef struct {
    origin origin;
    str path;
} url;

/* Takes scheme, host and port off the front of an absolute URL, *rest; what is left is empty or
 * begins with one of / ? #. With `bare`, [host:port] may stand alone, for http. The port is the
 * scheme's own if there is none. User information is refused. E_UrlMalformed. */
static err url_origin(str *rest, b32 bare, origin *to)
{
    str place = *rest;
    to->https = str_starts(place, S("https://"));
    if (to->https || str_starts(place, S("http://")))
        place = str_from(place, to->https ? 8 : 7);
    else if (!bare)
        return E_UrlMalformed;
    iz n = 0;
    while (n < place.len && (is_alnum(place.ptr[n]) || is_one_of(place.ptr[n], "-._[:]")))
        n++;
    if (n < place.len && !is_one_of(place.ptr[n], "/?#"))
        return E_UrlMalformed;
    *rest = str_from(place, n);
    place = str_span(place, 0, n);
    iz behind = str_find(place, ']') + 1;
    iz colon = str_find(str_from(place, behind), ':');
    iz end = colon < 0 ? n : behind + colon;
    u64 port = to->https ? 443 : 80;
    if (end < n && !str_to_uint(str_from(place, end + 1), 65535, &port))
        port = 0;
    if (!port || !end)
        return E_UrlMalformed;
    to->host = str_span(place, 0, end);
    to->port = (u16)port;
    return E_None;
}

/* Takes a base URL, or with `bare` also [host:port] alone, with a path and nothing behind it. */
static err url_parse(str text, b32 bare, url *u)
{
    u->path = text;
    if (!str_is_visible(text, URL_MAX))
        return E_UrlMalformed;
    err error = url_origin(&u->path, bare, &u->origin);
    while (str_at(u->path, u->path.len - 1) == '/')
        u->path.len--;
    if (str_find(u->path, '?') >= 0 || str_find(u->path, '#') >= 0)
        return E_UrlMalformed;
    return error;
}

/* What becomes part of a request must be visible ASCII: the last line of defence behind the checks
 * of each value. */
static void http_put(writer *w, str s)
{
    for (iz i = 0; i < s.len && !w->error; i++)
        if (s.ptr[i] >= 0x7f || s.ptr[i] <= ' ')
            w->error = E_HttpRequestUnsafe;
    put(w, s);
}

/* Percent-encoding of everything but the unreserved characters, RFC 3986 section 2.1 */
static void http_put_encoded(writer *w, str s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (iz i = 0; i < s.len; i++) {
        u8 c = s.ptr[i];
        if (!is_alnum(c) && !is_one_of(c, "-._~")) {
            put_byte(w, '%');
            put_byte(w, (u8)hex[c >> 4]);
            c = (u8)hex[c & 15];
        }
        put_byte(w, c);
    }
}

/* A request is written as: http_put_start, the rest of the target, http_put_origin, headers,
 * http_put_end. The base's path and the target meet in one slash. */
static void http_put_start(writer *w, const char *method, const url *base)
{
    put_text(w, method);
    http_put(w, base->path);
    put_byte(w, '/');
}

/* By bytes: a string of it would be shared with code that must not lie beside Lambda's. */
static void http_put_line_end(writer *w)
{
    put_byte(w, '\r');
    put_byte(w, '\n');
}

/* A header; `start` is its name and what stands before the value. It is left out without one. */
static void http_put_header(writer *w, const char *start, str value)
{
    if (!value.len)
        return;
    put_text(w, start);
    http_put(w, value);
    http_put_line_end(w);
}

/* The port is left out where it is the scheme's own. */
static void http_put_host(writer *w, const origin *to)
{
    http_put(w, to->host);
    if (to->port != (to->https ? 443 : 80)) {
        put_byte(w, ':');
        put_uint(w, to->port, 1);
    }
}

/* Ends the request line; an empty User-Agent would be refused by TfL. */
static void http_put_origin(writer *w, const origin *to)
{
    put_text(w, " HTTP/1.1\r\nHost: ");
    http_put_host(w, to);
    put_text(w, "\r\nUser-Agent: london-travel/1.0\r\n");
}

/* Ends the head and adds a JSON body; a request without one ends here too, with body {0, 0}. */
static void http_put_end(writer *w, str body)
{
    if (body.ptr) {
        put_text(w, "Content-Type: application/json\r\nContent-Length: ");
        put_uint(w, (u64)body.len, 1);
        http_put_line_end(w);
    }
    http_put_line_end(w);
    put(w, body);
}

/* delay-seconds of Retry-After, RFC 9110 section 10.2.3, in ns, or else `otherwise`. A date is not
 * understood and counts as too late. */
static i64 http_retry_after(const http_response *r, i64 otherwise)
{
    str value = http_header(r, "retry-after");
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

/* Is it trouble of the network, which may have passed by the next try? What is wrong with a
 * certificate or with TLS itself is not. */
static b32 http_may_pass(err error)
{
    return E_ConnectRefused <= error && error <= E_DnsServerFailure;
}

/* Opens the connection that will be needed next, once. Failure is for its own request to meet; no
 * more time goes into it than silence may take. Our Finished does not wait for that request: sent
 * right before it, it would hold it up until it is acknowledged (RFC 9293 section 3.7.4). */
static void http_meanwhile(connection *c)
{
    connection *next = c->meanwhile;
    c->meanwhile = 0;
    if (next && !connection_open(next, earlier(c->deadline, os_monotonic() + KEPT_SILENCE)) &&
        next->to.https)
        connection_flush(next);
}

/* A request that changes nothing, and so may be sent again: at most twice and inside the deadline,
 * when no connection comes about, when a kept one turns out dead or silent before the first byte,
 * and on 408, 429 and 5xx, after a pause of RETRY_PAUSE, then three times it, or as Retry-After
 * says. A dead kept connection needs no pause. E_HttpBusy when the last answer was one of those;
 * the requests are counted in *tries. */
static err http_try(connection *c, str request, i64 deadline, arena *a, http_response *r, iz *tries)
{
    i64 pause = RETRY_PAUSE;
    u8 *mark = a->at;
    for (iz n = 1;; n++, pause *= 3) {
        i64 wait = pause;
        arena_rewind(a, mark); /* what the try before received */
        ++*tries;
        err error = connection_open(c, deadline);
        b32 again = http_may_pass(error);
        if (!error) {
            connection_send(c, request);
            http_meanwhile(c);
            error = http_read(c, a, UPSTREAM_BODY_MAX, 1, r);
            again = c->kept && !c->heard && http_may_pass(error);
            wait = again ? 0 : wait;
        }
        if (!error && http_is_busy(r->status)) {
            again = 1;
            error = E_HttpBusy;
            wait = http_retry_after(r, wait);
        }
        i64 until = os_monotonic() + wait;
        if (!again || n == HTTP_TRIES || until >= deadline)
            return error;
        c->net->stages.retries++;
        os_sleep(until);
    }
}

static b32 http_is_redirect(i32 status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Where a redirect leads, RFC 9110 section 10.2.2: an absolute URL, or an absolute path on the same
 * origin; a fragment is dropped. Never from https to http, and to http on this machine alone, so
 * that no server can send the program to an address inside. E_HttpLocation, E_UrlInsecure. */
static err http_location(const http_response *r, origin *to, str *target)
{
    str place = http_header(r, "location");
    *target = str_cut(&place, '#');
    if (str_at(*target, 0) != '/' || str_at(*target, 1) == '/')
        if (url_origin(target, 0, to))
            return E_HttpLocation;
    return to->https ? E_None : E_UrlInsecure;
}

/* A GET. A token, which may be two words, goes behind `start`, the name of its header. */
static str http_request(arena *a, const origin *to, str target, const char *start, str token,
                        str trace, err *error)
{
    writer w = arena_writer(a, HTTP_REQUEST_MAX + token.len);
    put_text(&w, "GET /"); /* not "GET ", which must stay beside Lambda's code */
    http_put(&w, str_from(target, str_at(target, 0) == '/'));
    http_put_origin(&w, to);
    put_text(&w, "Accept: application/json\r\n");
    while (token.len) {
        put_text(&w, start);
        http_put(&w, str_cut(&token, ' '));
        start = " ";
        if (!token.len)
            http_put_line_end(&w);
    }
    http_put_header(&w, "X-Amzn-Trace-Id: ", trace);
    http_put_end(&w, (str){0, 0});
    *error = w.error;
    return arena_keep(a, &w);
}

/* GETs a target (path and query) from the connection's origin, with a bearer token unless that is
 * empty and with the connection's trace id, and follows up to HTTP_REDIRECTS redirects. The
 * connection serves the other origins too, without these two, and is given back to its own in the
 * end. Errors: those of http_try, and of redirects. */
static err http_get(connection *c, str target, str token, i64 deadline, arena *a, http_response *r,
                    iz *tries)
{
    err error;
    const origin home = c->to;
    for (iz hops = 0;; hops++) {
        b32 at_home = origin_eq(&c->to, &home);
        str trace = at_home ? c->trace : S("");
        str request = http_request(a, &c->to, target, "Authorization: Bearer ",
                                   at_home ? token : S(""), trace, &error);
        if (!error)
            error = http_try(c, request, deadline, a, r, tries);
        origin to = c->to;
        if (error || !http_is_redirect(r->status))
            break;
        error = hops == HTTP_REDIRECTS ? E_HttpRedirects : http_location(r, &to, &target);
        if (error)
            break;
        connection_turn(c, &to);
    }
    connection_turn(c, &home);
    return error;
}

/* ---------------------------------------------------------------------------------------------
 * 12 Lambda Runtime API
 *
 * AWS's "Using the Lambda runtime API for custom runtimes": GET next gives an event, its response
 * or error is POSTed under its request id, and so on, over one kept connection. The sandbox may be
 * frozen for hours inside any of these calls, so none has a time-out; Lambda itself ends a
 * function that hangs. A connection found broken is replaced once for a POST and a few times for
 * `next`. init/error and restore/error have no use here: nothing that needs the network or memory
 * comes before the first `next` but restore/next itself, and Lambda sees a process that ends.
 *
 * Log lines are one write each, as text or as one JSON object, filtered by level. They hold names
 * of errors and what the program itself decided; of texts from outside only ids and names, cut to
 * visible ASCII; never a token, a key, a user id, a query or a body.
 *
 * Each invocation ends in one line at INFO, the only one with a request id where all went well:
 * what was asked, what came of it, ms in each stage, and metrics in CloudWatch's embedded metric
 * format, which CloudWatch reads out of the log. It is some 1,100 bytes, written once Lambda has
 * the answer, and took 4.5 us with the clock's reads where we measured. What went wrong has lines
 * of its own besides, each with an errorType; the first of those at ERROR is repeated in the
 * invocation's line. That line and a crash's are JSON in either format. Each line of an invocation
 * holds the root of its trace.
 * ------------------------------------------------------------------------------------------ */

typedef enum { LOG_TRACE, LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_FATAL } log_level;

static const char log_levels[][6] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"};

typedef struct {
    b8 as_json;
    log_level least;
    str function; /* its name, a dimension of the metrics */
    /* of the present invocation, and empty between two: */
    str request_id, trace_root;
    str outcome;           /* what came of it */
    b8 failed;             /* it is one for the metric Failures */
    err error;             /* the first one with a line at ERROR */
    u8 told[LOG_TOLD_MAX]; /* members of its line */
    iz told_len;
} logger;

/* Forgets the invocation before, but for the ids, which go with its memory. */
static void log_reset(logger *log)
{
    log->outcome = S("");
    log->failed = 0;
    log->error = E_None;
    log->told_len = 0;
}

/* The name of an error; its sentence is left in *sentence. */
static str err_name(err error, str *sentence)
{
#define X(name, text) #name "|" text "\n"
    *sentence = text_row(S(ERRORS(X)), (i32)error);
#undef X
    return str_cut(sentence, '|');
}

static void log_init(logger *log, const char *const *env)
{
    str level = env_get(env, "AWS_LAMBDA_LOG_LEVEL");
    log->as_json = str_eq_nocase(env_get(env, "AWS_LAMBDA_LOG_FORMAT"), S("JSON"));
    log->function = env_get(env, "AWS_LAMBDA_FUNCTION_NAME");
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

/* Tells more in the line of the present invocation: a word, which may be from outside. */
static void log_tell(logger *log, const char *name, str word)
{
    writer w = writer_of(log->told, countof(log->told));
    w.len = log->told_len;
    if (!word.len)
        return;
    json_put_name(&w, name);
    put_byte(&w, '"');
    log_put_word(&w, word);
    put_byte(&w, '"');
    invariant(!w.error); /* type 80, intent 76 and line id 44, or type and reason */
    log->told_len = w.len;
}

/* A field of a line. One without a value is left out of JSON and a dash in text. */
static void log_put(writer *w, b32 as_json, const char *name, str value)
{
    if (!as_json) {
        put_byte(w, '\t');
        put(w, value.len ? value : S("-"));
    } else if (value.len) {
        json_put_member(w, name, value);
    }
}

/* What every line begins with. Gives the time in it. */
static i64 log_put_start(writer *w, const logger *log, b32 as_json, log_level level)
{
    i64 now = os_unix_ms();
    str grade = T(log_levels[level]);
    put_text(w, as_json ? "{\"timestamp\":\"" : "");
    put_time(w, now);
    if (as_json) {
        put_byte(w, '"');
        json_put_member(w, "level", grade);
    }
    log_put(w, as_json, "requestId", log->request_id);
    if (!as_json)
        log_put(w, as_json, "", grade);
    return now;
}

/* Ends a line and writes it. */
static void log_end(writer *w, const logger *log, b32 as_json)
{
    log_put(w, as_json, "traceId", log->trace_root);
    put_text(w, as_json ? "}\n" : "\n");
    invariant(!w->error);
    os_log(written(w));
}

/* One line: what was being done, what of it (a name from outside, or ""), and the error. It is at
 * most 2 * (id 256 + message 256 + trace 64) + error 200 + the rest, 150. */
static void log_line(logger *log, log_level level, const char *what, str which, err error)
{
    u8 buf[LOG_LINE_MAX], detail[256];
    if (level >= LOG_ERROR && !log->error)
        log->error = error;
    if (level < log->least)
        return;
    writer message = writer_of(detail, countof(detail));
    put_text(&message, what);
    if (which.len) {
        put_byte(&message, ' ');
        log_put_word(&message, which);
    }
    writer w = writer_of(buf, countof(buf));
    log_put_start(&w, log, log->as_json, level);
    log_put(&w, log->as_json, "message", written(&message));
    if (error) {
        str sentence;
        log_put(&w, log->as_json, "errorType", err_name(error, &sentence));
        log_put(&w, log->as_json, "errorMessage", sentence);
    }
    log_end(&w, log, log->as_json);
}

/* The last line of a process, from a signal handler: the signal's name behind "SIG", where the
 * processor stood, from the start of the image, or -1 outside of it, and the stage it was at. What
 * is read here may be half changed, but each length in it is bounded and all memory behind each
 * pointer is there. */
static void log_crash(const logger *log, str signal, i64 place, stage at)
{
    u8 buf[LOG_LINE_MAX];
    writer w = writer_of(buf, countof(buf));
    str section;
    stage_name(at, &section);
    log_put_start(&w, log, 1, LOG_FATAL);
    log_put(&w, 1, "message", S("crashed"));
    json_put_name(&w, "signal");
    put_text(&w, "\"SIG");
    put(&w, signal);
    put_byte(&w, '"');
    json_put_member(&w, "section", section);
    if (place >= 0) {
        json_put_name(&w, "address");
        put_text(&w, "\"0x");
        for (i32 shift = 16; shift >= 0; shift -= 4) /* below IMAGE_MAX */
            put_hex_digit(&w, (u32)(place >> shift));
        put_byte(&w, '"');
    }
    log_end(&w, log, 1);
}

/* What an invocation is measured by; -1 for what has no meaning this time. */
enum {
    METRIC_DURATION, /* ns, of the whole and of asking TfL and shaking hands in it */
    METRIC_TFL,
    METRIC_HANDSHAKE,
    METRIC_RETRIES,  /* requests to the services that were sent again */
    METRIC_FAILURES, /* 1 for an apology, an event or answer refused, or a reported failure */
    METRIC_COUNT,
};

/* ms of a duration, with the microseconds as a fraction. */
static void log_put_ms(writer *w, i64 ns)
{
    put_uint(w, (u64)(ns / MS), 1);
    put_byte(w, '.');
    put_uint(w, (u64)(ns / 1000 % 1000), 3);
}

/* The names of the metrics and their units, or their values. */
static void log_put_metrics(writer *w, const i64 metric[METRIC_COUNT], b32 values)
{
    str names = S("Duration TflDuration HandshakeDuration Retries Failures");
    for (i32 i = 0; i < METRIC_COUNT; i++) {
        str name = str_cut(&names, ' ');
        b32 is_time = i <= METRIC_HANDSHAKE;
        if (metric[i] < 0)
            continue;
        if (!values) {
            json_put_open(w, '{');
            json_put_member(w, "Name", name);
            json_put_member(w, "Unit", is_time ? S("Milliseconds") : S("Count"));
            put_byte(w, '}');
            continue;
        }
        json_put_string(w, name);
        put_byte(w, ':');
        if (is_time)
            log_put_ms(w, metric[i]);
        else
            put_uint(w, (u64)metric[i], 1);
    }
}

/* The "Embedded metric format" specification of the CloudWatch user guide: one directive, one set
 * of dimensions, of which each value is a member of the root. `now` is in ms since 1970. */
static void log_put_emf(writer *w, const logger *log, i64 now, const i64 metric[METRIC_COUNT])
{
    json_put_name(w, "_aws");
    put_text(w, "{\"Timestamp\":");
    put_uint(w, (u64)now, 1);
    put_text(w, ",\"CloudWatchMetrics\":[{\"Namespace\":\"LondonTravel\","
                "\"Dimensions\":[[\"FunctionName\"]],\"Metrics\":[");
    log_put_metrics(w, metric, 0);
    put_text(w, "]}]},\"FunctionName\":\"");
    log_put_word(w, log->function.len ? log->function : S("unknown"));
    put_byte(w, '"');
    log_put_metrics(w, metric, 1);
}

/* ms in each stage that took any. */
static void log_put_stages(writer *w, const stages *s)
{
    json_put_name(w, "stages");
    put_byte(w, '{');
    for (i32 i = STAGE_WAIT + 1; i < STAGE_COUNT; i++) {
        str section, name = stage_name((stage)i, &section);
        if (!s->spent[i])
            continue;
        json_put_string(w, name);
        put_byte(w, ':');
        log_put_ms(w, s->spent[i]);
    }
    put_byte(w, '}');
}

/* A service, or Lambda itself, did not answer as it should. */
static void log_status(logger *log, const char *what, i32 status, iz tries, err error)
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
    u8 *mark;  /* of the arena, behind the ids; null if they do not live there */
    err error; /* why the event cannot be taken, although it has a request id to answer to */
} invocation;

typedef struct {
    connection connection;
    url base;
    logger *log;
    u8 *crash_stack; /* null until crashes are caught */
} lambda;

static err lambda_init(lambda *l, network *net)
{
    str place = env_get(net->env, "AWS_LAMBDA_RUNTIME_API");
    if (url_parse(place, 1, &l->base) || l->base.origin.https)
        return E_RuntimeApiUrl;
    connection_init(&l->connection, net, l->base.origin);
    return E_None;
}

/* Begins a request: its target goes on behind `what`. */
static void lambda_put_start(writer *w, const lambda *l, const char *method, const char *what)
{
    http_put_start(w, method, &l->base);
    put_text(w, "2018-06-01/runtime/");
    put_text(w, what);
}

/* Sends a GET. Its answer is read later, so that what must be set up is set up meanwhile: crashes
 * are caught from the first GET on. Errors: those of connection_open and connection_send;
 * E_HttpRequestUnsafe and E_BufferFull are for a base URL that cannot be asked. */
static err lambda_ask(lambda *l, arena *a, const char *what)
{
    writer w = arena_writer(a, HTTP_REQUEST_MAX);
    lambda_put_start(&w, l, "GET ", what);
    http_put_origin(&w, &l->base.origin);
    http_put_end(&w, (str){0, 0});
    str request = arena_keep(a, &w);
    if (w.error)
        return w.error;
    connection_open(&l->connection, FOREVER);
    connection_send(&l->connection, request);
    if (!l->crash_stack) {
        l->crash_stack = arena_alloc(l->connection.net->process, CRASH_STACK);
        invariant(l->crash_stack); /* the arena has hardly been used by then */
        os_catch_crashes(l->crash_stack);
    }
    return l->connection.error;
}

/* Where the program was started for a snapshot, this call ends when a copy of it has been restored
 * from there (AWS's "Implementing SnapStart hooks for container images"). */
static err lambda_restore(lambda *l, arena *a)
{
    http_response r = {0};
    err error = lambda_ask(l, a, "restore/next");
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

/* Takes an id, which may be missing. False if it is bad, and then left out. */
static b32 lambda_id(const http_response *r, const char *name, str *id)
{
    *id = http_header(r, name);
    b32 good = !id->len || str_is_visible(*id, LAMBDA_ID_MAX);
    if (!good)
        *id = (str){0, 0};
    return good;
}

/* Of "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=...;Sampled=1" what is behind "Root=", by
 * which X-Ray finds it; of another form the whole. Cut, as it stands in every line. */
static str lambda_trace_root(str id)
{
    str root = id, rest = id;
    while (rest.len) {
        str part = str_cut(&rest, ';');
        if (str_starts(part, S("Root=")))
            root = str_from(part, 5);
    }
    return str_span(root, 0, root.len < LOG_WORD_MAX ? root.len : LOG_WORD_MAX);
}

/* Receives the answer to lambda_ask. E_RuntimeApiStatus for 403 and 500 and whatever else is not
 * 200, E_RequestIdInvalid for an event that nobody can answer to. Trouble with an event that has
 * an id is left in i->error, to be reported under that id. */
static err lambda_receive(lambda *l, arena *a, invocation *i)
{
    http_response r;
    err error = http_read(&l->connection, a, EVENT_MAX, 0, &r);
    if (error && !r.head.len)
        return error;
    if (r.status != 200)
        return E_RuntimeApiStatus;
    str id = http_header(&r, "lambda-runtime-aws-request-id");
    if (!str_is_visible(id, LAMBDA_ID_MAX))
        return E_RequestIdInvalid;
    i->request_id = id;
    i->event = r.body;
    i->mark = a->start + (r.head.ptr + r.head.len - a->start);
    i->error = error;
    i->deadline = lambda_deadline(http_header(&r, "lambda-runtime-deadline-ms"));
    l->log->request_id = id;
    if (!lambda_id(&r, "lambda-runtime-trace-id", &i->trace_id))
        log_line(l->log, LOG_WARN, "trace id left out", S(""), E_TraceIdInvalid);
    l->log->trace_root = lambda_trace_root(i->trace_id);
    if (!lambda_id(&r, "lambda-runtime-invocation-id", &i->invocation_id))
        i->error = E_InvocationIdInvalid;
    return E_None;
}

/* POSTs to invocation/{id}/{what}; once more over a new connection if the first one breaks. An
 * error means that the runtime should end: the connection stays broken, or status 5xx. Other
 * refusals (400, 403, 410, 413) are logged and survived. */
static err lambda_post(lambda *l, arena *a, const invocation *i, const char *what, err type,
                       str body)
{
    writer w = arena_writer(a, HTTP_REQUEST_MAX + body.len);
    lambda_put_start(&w, l, "POST ", "invocation/");
    http_put_encoded(&w, i->request_id);
    put_text(&w, what);
    http_put_origin(&w, &l->base.origin);
    http_put_header(&w, "Lambda-Runtime-Invocation-Id: ", i->invocation_id);
    if (type) {
        str sentence, name = err_name(type, &sentence);
        http_put_header(&w, "Lambda-Runtime-Function-Error-Type: Function.", name);
    }
    http_put_end(&w, body);
    str request = arena_keep(a, &w);
    http_response r;
    iz tries = 0;
    err error = w.error;
    if (error)
        return error;
    do {
        connection_open(&l->connection, FOREVER);
        connection_send(&l->connection, request);
        error = http_read(&l->connection, a, LAMBDA_ANSWER_MAX, 0, &r);
        tries++;
    } while (r.status < 200 && tries < 2); /* a status that was read counts, whatever follows it */
    if (r.status < 200 || r.status > 299) {
        l->log->failed = 1;
        l->log->outcome = S("undelivered");
    }
    if (r.status < 200)
        return error;
    if (r.status >= 500)
        return E_RuntimeApiStatus;
    if (r.status > 299)
        log_status(l->log, what, r.status, tries, E_RuntimeApiStatus);
    return E_None;
}

static err lambda_respond(lambda *l, arena *a, const invocation *i, str body)
{
    return lambda_post(l, a, i, "/response", E_None, body);
}

/* Reports an invocation that has no response. The arena may be full, so the event goes first. */
static err lambda_report(lambda *l, arena *a, const invocation *i, err error)
{
    u8 buf[512];
    if (i->mark)
        arena_rewind(a, i->mark);
    writer w = writer_of(buf, countof(buf));
    json_put_open(&w, '{');
    str sentence, name = err_name(error, &sentence);
    json_put_member(&w, "errorMessage", sentence);
    json_put_name(&w, "errorType");
    put_text(&w, "\"Function.");
    put(&w, name);
    put_text(&w, "\",\"stackTrace\":[]}");
    invariant(!w.error);
    return lambda_post(l, a, i, "/error", error, written(&w));
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
    ALEXA_RESOLUTIONS, /* what Alexa made of what was spoken for the slot LINE */
    ALEXA_REASON,      /* of a SessionEndedRequest */
    ALEXA_ERROR,       /* of that, or of a System.ExceptionEncountered */
    ALEXA_SESSION_APP, /* application ids */
    ALEXA_CONTEXT_APP,
    ALEXA_SESSION_TOKEN, /* the user's access token for the preferences API */
    ALEXA_CONTEXT_TOKEN,
    ALEXA_SPEECH,    /* the session attribute */
    ALEXA_SLOT,      /* what was spoken for the slot LINE; the last one with a path */
    ALEXA_SLOT_NAME, /* out of the resolutions, */
    ALEXA_SLOT_ID,   /* likewise */
    ALEXA_MEMBERS,
};

/* The name of the only slot, as existing voice models of this skill have it. */
#define ALEXA_LINE "LINE"

static const char *alexa_paths(void)
{
    return "request.type request.intent.name "
           "request.intent.slots." ALEXA_LINE ".resolutions request.reason request.error.type "
           "session.application.applicationId context.System.application.applicationId "
           "session.user.accessToken context.System.user.accessToken session.attributes.speech "
           "request.intent.slots." ALEXA_LINE ".value";
}

typedef struct {
    str member[ALEXA_MEMBERS]; /* a null pointer for one that is absent or null */
} alexa_request;

/* One authority: {"status": {"code"}, "values": [{"value": {"name", "id"}}, ...]}. Of the values
 * the first one counts, and none unless the code is ER_SUCCESS_MATCH; members come in any order.
 * In the frame of its callers the code would be larger. */
__attribute__((noinline)) static b32 alexa_parse_authority(json *j, alexa_request *r)
{
    str code = S(""), found[] = {S(""), S("")};
    if (!json_walk_start(j, "status.code values"))
        return 0;
    for (i32 i; (i = json_walk_next(j)) >= 0;) {
        if (i == 0)
            code = json_text(j);
        else if (json_enter(j, JSON_ARRAY) && json_element(j)) {
            if (json_walk_start(j, "value.name value.id"))
                while ((i = json_walk_next(j)) >= 0)
                    found[i] = json_text(j);
            while (json_element(j))
                json_skip(j);
        }
    }
    if (!str_is(code, "ER_SUCCESS_MATCH"))
        return 0;
    r->member[ALEXA_SLOT_NAME] = found[0];
    r->member[ALEXA_SLOT_ID] = found[1];
    return 1;
}

static void alexa_parse_resolutions(json *j, alexa_request *r)
{
    b32 matched = 0;
    if (!json_walk_start(j, "resolutionsPerAuthority"))
        return;
    while (json_walk_next(j) >= 0)
        if (json_enter(j, JSON_ARRAY))
            while (json_element(j)) {
                if (matched)
                    json_skip(j);
                else
                    matched = alexa_parse_authority(j, r);
            }
}

/* Decodes an event. Errors: those of JSON; E_NotAnAlexaRequest where there is no request with a
 * type. */
static err alexa_parse(str event, arena *a, alexa_request *r)
{
    json j;
    *r = (alexa_request){0};
    json_start(&j, event, a);
    if (json_walk_start(&j, alexa_paths()))
        for (i32 i; (i = json_walk_next(&j)) >= 0;) {
            if (i == ALEXA_RESOLUTIONS)
                alexa_parse_resolutions(&j, r);
            else
                r->member[i] = json_text(&j);
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
 * 14 secrets, TfL and preferences
 *
 * A setting is a Skill__ variable: its value stands in the environment, or in AWS Secrets Manager
 * or Parameter Store, where the environment names it. Secrets are fetched when a request first
 * needs one of them, all together, in one call of each of the two services; where the role may not
 * ask for several at a time, or some do not come, each by a call of its own. Nothing is fetched
 * before the first event, so a restored copy has nothing of another's. They are kept for
 * SECRETS_KEPT in this process alone, and fetched again when TfL refuses the credentials.
 *
 * What cannot be had is logged by the name of its variable, and tried again after SECRETS_PAUSE.
 * TfL is then asked anonymously, and requests to a skill whose own id is not known are refused. A
 * value that was had before stays in force while its service is in trouble, but not when the
 * service says that there is none.
 *
 * The calls are of AWS's JSON protocol 1.1, signed by Signature Version 4, over section 8; they
 * follow no redirect. Who asks is told by the environment or by the container's agent, which is
 * asked each time: none of its credentials are kept. The AWS Parameters and Secrets extension is
 * asked instead where its port is set, and the session token that it wants: it serves the default
 * port without that variable too, but then nothing tells that it is there. It keeps values as well,
 * for SECRETS_MANAGER_TTL, so through it a new one may come later. The role must allow
 * secretsmanager:GetSecretValue and BatchGetSecretValue, ssm:GetParameter and GetParameters, or of
 * each pair the first. An ARN of another region is asked for in AWS_REGION all the same.
 *
 * TfL's Unified API tells the state of lines and the disruption of whole modes; the preferences
 * API of London Travel tells a user's favourite lines. Both are asked by GET and answer in JSON,
 * of which only the members named here are decoded. A failure is told by its name, never by the
 * body, which may repeat the app_key.
 * ------------------------------------------------------------------------------------------ */

/* The variables; those that one question needs stand together. */
enum {
    SETTING_VERIFY,
    SETTING_SKILL_ID,
    SETTING_APP_ID,
    SETTING_APP_KEY,
    SETTING_TFL_URL,
    SETTING_SKILL_URL,
    SETTINGS,
};

static const char setting_names[SETTINGS][26] = {
    "Skill__VerifySkillId",     "Skill__SkillId",   "Skill__TflApplicationId",
    "Skill__TflApplicationKey", "Skill__TflApiUrl", "Skill__SkillApiUrl"};

typedef enum { STORE_NONE, STORE_SECRETS, STORE_PARAMETERS, STORES } store;

typedef struct {
    str value;           /* in force: of the environment, or in room */
    store store;         /* where it is kept, */
    str secret;          /* and under what name */
    str found;           /* what the present call has brought */
    err error;           /* why there is no value */
    b8 refused;          /* the value is of no use, so that none is better */
    u8 room[SECRET_MAX]; /* zero behind the value */
} setting;

typedef struct {
    setting at[SETTINGS];
    connection connection; /* to whoever has the secrets, or the credentials to ask for them */
    i64 until;             /* when they are to be fetched */
    i64 calm_until;        /* and until when they are not because TfL refuses them */
    b8 apart[STORES];      /* the role may not ask for several at a time */
} secrets;

typedef struct {
    err error; /* of its configuration */
    url base;
    connection connection;
    /* of the present invocation, for its log line: */
    i32 status; /* of the last answer; 0 for none */
    iz tries;   /* requests sent */
    i64 spent;  /* ns, from asking to the answer's last byte */
} service;

typedef struct {
    logger log;
    secrets secrets;
    service tfl, preferences;
} skill;

/* What one invocation carries along. */
typedef struct {
    skill *skill;
    arena *arena;
    i64 deadline;
    i64 now; /* seconds since 1970 */
    str trace_id;
    b8 renewed; /* secrets have been fetched because TfL refused them */
} task;

static void service_init(service *s, network *net, str base)
{
    s->error = url_parse(base, 0, &s->base);
    if (!s->error && !origin_is_safe(&s->base.origin))
        s->error = E_UrlInsecure;
    connection_init(&s->connection, net, s->base.origin);
}

/* Turns a service to the base URL of a setting. */
static void service_set(service *s, network *net, const setting *base)
{
    service_init(s, net, base->value);
    if (base->error)
        s->error = base->error;
}

static void setting_init(setting *v, str value)
{
    b32 parameter = str_starts(value, S("aws:ssm:"));
    v->value = value;
    if (!parameter && !str_starts(value, S("aws:secretsmanager:")))
        return;
    v->store = parameter ? STORE_PARAMETERS : STORE_SECRETS;
    v->secret = str_from(value, parameter ? S("aws:ssm:").len : S("aws:secretsmanager:").len);
    v->value = S("");
    v->error = E_SecretNotFound;
}

static void skill_init(skill *s, network *net)
{
    const char *const *env = net->env;
    setting *at = s->secrets.at;
    str prefix = env_get(env, "Skill__SecretsPrefix");
    for (i32 i = 0; i < SETTINGS; i++) {
        str value = env_get(env, setting_names[i]);
        setting_init(&at[i], value);
        if ((i == SETTING_APP_ID || i == SETTING_APP_KEY) && value.len)
            prefix = S("");
    }
    for (i32 i = SETTING_SKILL_ID; i <= SETTING_APP_KEY && prefix.len; i++) {
        if (at[i].value.len || at[i].store)
            continue;
        writer w = arena_writer(net->process, URL_MAX);
        put_text(&w, "aws:secretsmanager:");
        put(&w, prefix);
        put_text(&w, setting_names[i]);
        setting_init(&at[i], arena_keep(net->process, &w));
    }
    setting *tfl = &at[SETTING_TFL_URL], *preferences = &at[SETTING_SKILL_URL];
    if (!tfl->value.len && !tfl->store)
        tfl->value = S("https://api.tfl.gov.uk/");
    if (!preferences->value.len && !preferences->store)
        preferences->error = E_PreferencesNotSet;
    service_set(&s->tfl, net, tfl);
    service_set(&s->preferences, net, preferences);
    connection_init(&s->secrets.connection, net, (origin){0});
    log_init(&s->log, env);
}

/* How a service fared, for the line of the invocation; nothing if it was not asked. */
static void service_put(writer *w, const char *name, const service *s)
{
    if (!s->tries)
        return;
    json_put_name(w, name);
    put_text(w, "{\"status\":");
    put_uint(w, (u64)s->status, 1);
    put_text(w, ",\"tries\":");
    put_uint(w, (u64)s->tries, 1);
    json_put_member(w, "connection",
                    text_row(S("none\nplain\nfull\nresumed\nkept\n"), (i32)s->connection.opened));
    put_byte(w, '}');
}

/* ---- secrets ---- */

/* Who asks. */
enum { AWS_ID, AWS_SECRET, AWS_TOKEN };

typedef struct {
    str at[3];
} aws_keys;

static void aws_put_hex(writer *w, const u8 *bytes, iz n)
{
    for (iz i = 0; i < 2 * n; i++)
        put_hex_digit(w, (u32)bytes[i / 2] >> (i % 2 ? 0 : 4));
}

static void aws_put_hash(writer *w, str data)
{
    u8 digest[HASH_MAX];
    hash_of(SHA256, data, digest);
    aws_put_hex(w, digest, 32);
}

/* The names of the headers in a canonical request, whose first three lines are none. */
static void aws_put_names(writer *w, str request)
{
    for (iz i = 0; request.len; i++) {
        str line = str_cut(&request, '\n');
        if (i > 3)
            put_byte(w, ';');
        if (i > 2)
            put(w, str_cut(&line, ':'));
    }
}

/* The signature of a text with the key of a scope: of a day, a region, a service. E_BufferFull for
 * a secret over AWS_SECRET_MAX. */
static err aws_sign(str secret, str scope, str text, u8 out[HASH_MAX])
{
    u8 room[4 + AWS_SECRET_MAX];
    writer w = writer_of(room, countof(room));
    put_text(&w, "AWS4");
    put(&w, secret);
    str key = written(&w);
    for (; scope.len; key.len = 32)
        hmac(SHA256, key, str_cut(&scope, '/'), room);
    hmac(SHA256, key, text, out);
    wipe(room, sizeof room);
    return w.error;
}

/* Writes the value of an Authorization header: Signature Version 4, as "Create a signed AWS API
 * request" of AWS's IAM User Guide has it. `time` is that of x-amz-date, 20150830T123600Z. `text`
 * holds the start of the canonical request, each line ended: method, path, query, and what is
 * signed of the head, as name:value in the order of the names, in lower case; what is signed is
 * written behind it. E_BufferFull also for a secret over AWS_SECRET_MAX. */
static void aws_put_signature(writer *w, writer *text, const aws_keys *keys, str time, str region,
                              const char *name, str body)
{
    u8 digest[HASH_MAX];
    str request = written(text);
    put_text(w, "AWS4-HMAC-SHA256 Credential=");
    http_put(w, keys->at[AWS_ID]);
    put_byte(w, '/');
    iz at = w->len;
    put(w, str_span(time, 0, 8));
    put_byte(w, '/');
    put(w, region);
    put_byte(w, '/');
    put_text(w, name);
    put_text(w, "/aws4_request");
    str scope = str_from(written(w), at);
    put_text(w, ", SignedHeaders=");
    at = w->len;
    aws_put_names(w, request);
    put_byte(text, '\n');
    put(text, str_from(written(w), at));
    put_byte(text, '\n');
    aws_put_hash(text, body);
    request = written(text);
    put_text(text, "AWS4-HMAC-SHA256\n");
    put(text, time);
    put_byte(text, '\n');
    put(text, scope);
    put_byte(text, '\n');
    aws_put_hash(text, request);
    err error = aws_sign(keys->at[AWS_SECRET], scope, str_from(written(text), request.len), digest);
    put_text(w, ", Signature=");
    aws_put_hex(w, digest, 32);
    if (text->error || error)
        w->error = E_BufferFull;
}

static str secrets_env(const task *t, const char *name)
{
    return env_get(t->skill->secrets.connection.net->env, name);
}

/* Why a service refuses: the word behind the name space in "__type". */
static err secrets_refusal(str body, arena *a)
{
    static const u8 errors[] = {
        E_SecretDenied,       E_SecretNotFound,     E_SecretNotFound, E_CredentialsRefused,
        E_CredentialsRefused, E_CredentialsRefused, E_HttpBusy};
    json j;
    str type = S("");
    for (iz i = 0; i < body.len; i++)
        if (str_has_at(body, i, S("not ready")))
            return E_SecretsStarting;
    json_start(&j, body, a);
    if (json_walk_start(&j, "__type"))
        while (json_walk_next(&j) >= 0)
            type = json_text(&j);
    i32 word = str_word(str_from(type, str_find(type, '#') + 1),
                        "AccessDeniedException ResourceNotFoundException ParameterNotFound "
                        "UnrecognizedClientException InvalidSignatureException "
                        "ExpiredTokenException ThrottlingException");
    return word < 0 ? E_SecretRefused : (err)errors[word];
}

/* Sends a request, which may have an error, to whoever has secrets, and gives the body of the
 * answer. */
static err secrets_ask(task *t, const origin *to, str request, err error, str *body)
{
    connection *c = &t->skill->secrets.connection;
    http_response r = {0};
    iz tries = 0;
    connection_turn(c, to);
    if (!error)
        error = http_try(c, request, t->deadline, t->arena, &r, &tries);
    *body = r.body;
    return error || r.status == 200 ? error : secrets_refusal(r.body, t->arena);
}

/* The agents that AWS runs beside containers on ECS and EKS, at addresses of the link. */
static b32 aws_is_agent(const origin *to)
{
    return str_word(to->host, "169.254.170.2 169.254.170.23 [fd00:ec2::23]") >= 0;
}

/* The credentials of the environment, or those that the container's agent gives: "Container
 * credential provider" of AWS's SDK guide. Over http it must be on this machine or this link. */
static err aws_keys_get(task *t, aws_keys *keys)
{
    str *at = keys->at, body, file = {0, 0};
    at[AWS_ID] = secrets_env(t, "AWS_ACCESS_KEY_ID");
    at[AWS_SECRET] = secrets_env(t, "AWS_SECRET_ACCESS_KEY");
    at[AWS_TOKEN] = secrets_env(t, "AWS_SESSION_TOKEN");
    if (at[AWS_ID].len && at[AWS_SECRET].len)
        return E_None;
    *keys = (aws_keys){0}; /* a half of them is none */
    str place = secrets_env(t, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    if (!place.len)
        return E_CredentialsMissing;
    origin to;
    if (url_origin(&place, 0, &to))
        return E_UrlMalformed;
    if (!origin_is_safe(&to) && !aws_is_agent(&to))
        return E_UrlInsecure;
    str token = secrets_env(t, "AWS_CONTAINER_AUTHORIZATION_TOKEN");
    str path = secrets_env(t, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    if (path.len) {
        file = os_map((const char *)path.ptr);
        token = str_trim(file);
    }
    err error;
    str request = http_request(t->arena, &to, place, "Authorization: ", token, S(""), &error);
    error = secrets_ask(t, &to, request, error, &body);
    os_unmap(file);
    json j;
    json_start(&j, body, t->arena);
    if (error)
        return error >= E_CredentialsRefused ? E_CredentialsMissing : error;
    if (json_walk_start(&j, "AccessKeyId SecretAccessKey Token"))
        for (i32 i; (i = json_walk_next(&j)) >= 0;)
            at[i] = json_text(&j);
    error = json_finish(&j);
    if (!error && (!at[AWS_ID].len || !at[AWS_SECRET].len))
        error = E_CredentialsMissing;
    if (error)
        at[AWS_SECRET] = S("");
    return error;
}

/* Where a service is: AWS's own in the region, unless the environment has another place. */
static err aws_endpoint(task *t, store from, const char *name, str region, url *base)
{
    str place = secrets_env(t, from == STORE_PARAMETERS ? "AWS_ENDPOINT_URL_SSM"
                                                        : "AWS_ENDPOINT_URL_SECRETS_MANAGER");
    if (!place.len)
        place = secrets_env(t, "AWS_ENDPOINT_URL");
    writer w = arena_writer(t->arena, URL_MAX);
    put_text(&w, "https://");
    put_text(&w, name);
    put_byte(&w, '.');
    put(&w, region);
    put_text(&w, ".amazonaws.com");
    if (str_starts(region, S("cn-")))
        put_text(&w, ".cn");
    str own = arena_keep(t->arena, &w);
    if (!host_valid(region))
        return E_RegionInvalid;
    err error = url_parse(place.len ? place : own, 0, base);
    return error || origin_is_safe(&base->origin) ? error : E_UrlInsecure;
}

/* Writes the start of a call's canonical request, up to the headers, and gives its time. */
static str aws_put_head(writer *text, const url *base, str token, const char *target,
                        const char *operation)
{
    put_text(text, "content-type:application/x-amz-json-1.1\nhost:");
    http_put_host(text, &base->origin);
    put_text(text, "\nx-amz-date:");
    iz at = text->len;
    put_time_as(text, os_unix_ms(), S("  T  Z"));
    str time = str_from(written(text), at);
    put_text(text, token.len ? "\nx-amz-security-token:" : "");
    http_put(text, token);
    put_text(text, "\nx-amz-target:");
    put_text(text, target);
    put_byte(text, '.');
    put_text(text, operation);
    put_byte(text, '\n');
    return time;
}

/* Calls an operation of a service in AWS's JSON protocol 1.1: Secrets Manager, or Parameter Store,
 * which is a part of Systems Manager. In the frame of its caller the code would be larger. */
__attribute__((noinline)) static err aws_call(task *t, aws_keys *keys, store from,
                                              const char *operation, writer *input, str *output)
{
    b32 parameter = from == STORE_PARAMETERS;
    const char *name = parameter ? "ssm" : "secretsmanager";
    str region = secrets_env(t, "AWS_REGION"), body = arena_keep(t->arena, input);
    url base;
    err error = input->error ? input->error : aws_endpoint(t, from, name, region, &base);
    if (!error && !keys->at[AWS_SECRET].len)
        error = aws_keys_get(t, keys);
    if (error)
        return error;
    writer text = arena_writer(t->arena, AWS_REQUEST_MAX);
    http_put_start(&text, "POST\n", &base);
    put_text(&text, "\n\n");
    iz at = text.len;
    str time =
        aws_put_head(&text, &base, keys->at[AWS_TOKEN], parameter ? "AmazonSSM" : name, operation);
    if (text.error)
        return text.error;
    writer w = arena_writer(t->arena, 2 * AWS_REQUEST_MAX);
    http_put_start(&w, "POST ", &base);
    http_put_origin(&w, &base.origin);
    for (str rest = str_from(written(&text), at); rest.len;) {
        str line = str_cut(&rest, '\n');
        if (!str_starts(line, S("host:"))) /* it stands there already */
            http_put_header(&w, "", line);
    }
    put_text(&w, "Authorization: ");
    aws_put_signature(&w, &text, keys, time, region, name, body);
    put_text(&w, "\r\nContent-Length: ");
    put_uint(&w, (u64)body.len, 1);
    put_text(&w, "\r\n\r\n");
    put(&w, body);
    str request = arena_keep(t->arena, &w);
    return secrets_ask(t, &base.origin, request, w.error, output);
}

/* Takes the values out of an answer: to a question for `one`, from either service, or for all that
 * come from it. Nothing of an answer counts that is not JSON to its end. A version of a parameter
 * has its plain name in an answer, and what was behind that as Selector: it is asked for alone. */
static err secrets_read(secrets *s, store from, setting *one, str body, arena *a)
{
    json j;
    json_start(&j, body, a);
    if (json_walk_start(&j, one ? "SecretString Parameter.Value" : "SecretValues Parameters"))
        while (json_walk_next(&j) >= 0) {
            if (one) {
                one->found = json_text(&j);
            } else if (json_enter(&j, JSON_ARRAY)) {
                while (json_element(&j)) {
                    str of[] = {S(""), S(""), S(""), S(""), S("")};
                    if (json_walk_start(&j, "Name ARN SecretString Value Selector"))
                        for (i32 k; (k = json_walk_next(&j)) >= 0;)
                            of[k] = json_text(&j);
                    for (setting *v = s->at; v < s->at + SETTINGS; v++)
                        if (v->store == from && !of[4].len &&
                            (str_eq(v->secret, of[0]) || str_eq(v->secret, of[1])))
                            v->found = of[1 + (i32)from];
                }
            }
        }
    return json_finish(&j);
}

/* Asks the extension, which has its own way and answers as the service does. Before it has heard
 * of the first event it says that it is not ready. */
static err secrets_extension(task *t, u16 port, const setting *v, str *body)
{
    origin to = {S("localhost"), port, 0};
    writer w = arena_writer(t->arena, AWS_REQUEST_MAX);
    put_text(&w, v->store == STORE_PARAMETERS
                     ? "systemsmanager/parameters/get?withDecryption=true&name="
                     : "secretsmanager/get?secretId=");
    http_put_encoded(&w, v->secret);
    str target = arena_keep(t->arena, &w);
    err error;
    str request = http_request(t->arena, &to, target, "X-Aws-Parameters-Secrets-Token: ",
                               secrets_env(t, "AWS_SESSION_TOKEN"), S(""), &error);
    for (error = w.error ? w.error : error;;) {
        error = secrets_ask(t, &to, request, error, body);
        i64 again = os_monotonic() + RETRY_PAUSE;
        if (error != E_SecretsStarting || again >= t->deadline)
            return error;
        os_sleep(again);
        error = E_None;
    }
}

/* Asks for one secret, or for all that come from a service. */
static err secrets_call(task *t, aws_keys *keys, u16 port, store from, setting *one)
{
    secrets *s = &t->skill->secrets;
    b32 parameter = from == STORE_PARAMETERS;
    writer w = arena_writer(t->arena, AWS_REQUEST_MAX);
    str body;
    json_put_open(&w, '{');
    json_put_name(&w, parameter ? one ? "Name" : "Names" : one ? "SecretId" : "SecretIdList");
    if (!one)
        put_byte(&w, '[');
    for (const setting *v = s->at; v < s->at + SETTINGS; v++)
        if (one ? v == one : v->store == from)
            json_put_string(&w, v->secret);
    if (!one)
        put_byte(&w, ']');
    put_text(&w, parameter ? ",\"WithDecryption\":true}" : "}");
    err error = port ? secrets_extension(t, port, one, &body)
                     : aws_call(t, keys, from,
                                parameter ? one ? "GetParameter" : "GetParameters"
                                : one     ? "GetSecretValue"
                                          : "BatchGetSecretValue",
                                &w, &body);
    return error ? error : secrets_read(s, from, one, body, t->arena);
}

/* Fetches what comes from one of the two services: v->found, or else v->error. */
static void secrets_from(task *t, aws_keys *keys, store from)
{
    secrets *s = &t->skill->secrets;
    u64 port = 0;
    iz count = 0;
    err all = E_None;
    if (secrets_env(t, "AWS_SESSION_TOKEN").len)
        str_to_uint(secrets_env(t, "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT"), 65535, &port);
    for (const setting *v = s->at; v < s->at + SETTINGS; v++)
        count += v->store == from;
    if (count > 1 && !port && !s->apart[from]) {
        all = secrets_call(t, keys, 0, from, 0);
        s->apart[from] = all == E_SecretDenied;
        if (all == E_SecretDenied || all == E_SecretRefused)
            all = E_None;
    }
    for (setting *v = s->at; v < s->at + SETTINGS; v++) {
        if (v->store != from)
            continue;
        v->error = all;
        if (!all && !v->found.ptr)
            v->error = secrets_call(t, keys, (u16)port, from, v);
    }
}

/* Puts in force what was found: visible ASCII, and not an object of JSON. Trouble on the way to it
 * leaves the old value in force, unless that was refused; v->error then stays. True if the value
 * is another one now. */
static b32 setting_take(setting *v)
{
    str found = str_trim(v->found);
    v->found = (str){0, 0};
    if (!v->error && (!str_is_visible(found, SECRET_MAX) || found.ptr[0] == '{'))
        v->error = E_SecretInvalid;
    if (v->error)
        found = v->refused || v->error >= E_SecretDenied ? S("") : v->value;
    v->refused = 0;
    if (str_eq(found, v->value))
        return 0;
    wipe(v->room, SECRET_MAX);
    copy(v->room, found.ptr, found.len);
    v->value = (str){v->room, found.len};
    return 1;
}

/* Fetches all secrets, and wipes what was needed for it. True if one is another now. */
static b32 secrets_fetch(task *t)
{
    skill *s = t->skill;
    setting *at = s->secrets.at;
    connection *c = &s->secrets.connection;
    u8 *mark = t->arena->at;
    i64 now = os_monotonic();
    i64 deadline = t->deadline;
    stage before = c->net->stages.now;
    aws_keys keys = {0};
    b32 others = 0;
    stage_enter(c->net, STAGE_HTTP);
    t->deadline = now + earlier(SECRETS_BUDGET, (deadline - now) / 2);
    for (store from = STORE_SECRETS; from < STORES; from++)
        secrets_from(t, &keys, from);
    t->deadline = deadline;
    s->secrets.until = now + SECRETS_KEPT;
    setting *v = at;
    for (i32 i = 0; i < SETTINGS; i++, v++) {
        if (!v->store)
            continue;
        others |= setting_take(v);
        if (v->error) {
            log_line(&s->log, LOG_ERROR, setting_names[i], S(""), v->error);
            s->secrets.until = now + SECRETS_PAUSE;
        }
        if (v->value.len)
            v->error = E_None;
    }
    connection_close(c);
    c->to = (origin){0};
    arena_rewind(t->arena, mark);
    stage_enter(c->net, before);
    for (i32 i = SETTING_TFL_URL; i <= SETTING_SKILL_URL; i++) {
        service *to = i == SETTING_TFL_URL ? &s->tfl : &s->preferences;
        if (!at[i].store)
            continue;
        connection_close(&to->connection);
        service_set(to, c->net, &at[i]);
    }
    return others;
}

/* Sees to it that the settings from..to are there, if they are secrets and can be had. */
static void secrets_need(task *t, i32 from, i32 to)
{
    const secrets *s = &t->skill->secrets;
    b32 any = 0;
    for (i32 i = from; i <= to; i++)
        any |= s->at[i].store != STORE_NONE;
    if (any && os_monotonic() >= s->until)
        secrets_fetch(t);
}

/* Is the request for this skill? E_SkillIdMismatch, and E_SkillIdUnavailable where that cannot be
 * told. Any request will do if no id is configured, or Skill__VerifySkillId is false. */
static err skill_verify(task *t, const alexa_request *q)
{
    const setting *at = t->skill->secrets.at, *verify = at + SETTING_VERIFY;
    const setting *id = at + SETTING_SKILL_ID;
    secrets_need(t, SETTING_VERIFY, SETTING_VERIFY);
    if (verify->value.len || verify->store ? str_eq_nocase(verify->value, S("false"))
                                           : !id->value.len && !id->store)
        return E_None;
    secrets_need(t, SETTING_SKILL_ID, SETTING_SKILL_ID);
    if (id->store && !id->value.len)
        return E_SkillIdUnavailable;
    return alexa_is_for(q, id->value) ? E_None : E_SkillIdMismatch;
}

/* ---- TfL and preferences ---- */

/* One question to a service: the target is written, the answer is got, then read. */
typedef struct {
    task *task;
    service *service;
    const char *what; /* is asked, for the log */
    writer target;    /* below the service's base URL */
    i32 status;       /* of the answer */
    json answer;
} inquiry;

static void inquiry_start(inquiry *q, task *t, service *s, const char *what)
{
    secrets_need(t, SETTING_APP_ID, SETTING_SKILL_URL);
    q->task = t;
    q->service = s;
    q->what = what;
    q->status = 0;
    q->target = arena_writer(t->arena, HTTP_REQUEST_MAX);
    http_put(&q->target, s->base.path);
    put_byte(&q->target, '/');
}

/* GETs the target. Any status but 200 is E_HttpStatus; head and body are gone then. Errors are in
 * the log. */
static err inquiry_ask(inquiry *q, str token)
{
    task *t = q->task;
    service *s = q->service;
    network *net = s->connection.net;
    iz tries = 0;
    err error = q->target.error;
    str target = arena_keep(t->arena, &q->target);
    u8 *mark = t->arena->at;
    http_response r = {0};
    if (s->error) {
        i32 which = s == &t->skill->tfl ? SETTING_TFL_URL : SETTING_SKILL_URL;
        log_line(&t->skill->log, LOG_ERROR, setting_names[which], S(""), s->error);
        return s->error;
    }
    stage_enter(net, STAGE_HTTP);
    i64 start = net->stages.since;
    if (!error)
        error = http_get(&s->connection, target, token, t->deadline, t->arena, &r, &tries);
    if (!error && r.status != 200)
        error = E_HttpStatus;
    stage_enter(net, error ? STAGE_SPEECH : STAGE_JSON);
    s->tries += tries;
    s->spent += net->stages.since - start;
    s->status = q->status = r.status;
    json_start(&q->answer, r.body, t->arena);
    if (!error)
        return E_None;
    log_status(&t->skill->log, q->what, r.status, tries, error);
    arena_rewind(t->arena, mark);
    return error;
}

/* Reads the answer to its end. It is garbled if that is not JSON, or was not of the right shape:
 * E_JsonShape, in the log as well. */
static err inquiry_end(inquiry *q, b32 shape)
{
    err error = json_finish(&q->answer);
    if (!error && !shape)
        error = E_JsonShape;
    if (error)
        log_line(&q->task->skill->log, LOG_ERROR, q->what, S("answer"), error);
    stage_enter(q->service->connection.net, STAGE_SPEECH);
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
    static const u16 least[] = {1970, 1, 1, 0, 0, 0}, most[] = {9999, 12, 31, 23, 59, 60};
    reader r = reader_of(text);
    i64 part[6];
    for (iz i = 0; i < countof(part); i++) {
        if (i && !read_if(&r, S("?--T::").ptr[i]))
            return -1;
        part[i] = read_decimal(&r, i ? 2 : 4);
        if (part[i] < least[i] || part[i] > most[i])
            return -1;
    }
    i64 day = days_of_date(part[0], part[1], part[2]);
    if (day >= days_of_date(part[0], part[1] + 1, 1))
        return -1;
    i64 time = ((day * 24 + part[3]) * 60 + part[4]) * 60 + part[5];
    if (read_if(&r, '.'))
        while (is_digit(reader_peek(&r)))
            read_byte(&r);
    i64 east = read_if(&r, '+') ? 60 : read_if(&r, '-') ? -60 : 0;
    if (east) {
        i64 minutes = read_decimal(&r, 2) * 60;
        read_if(&r, ':');
        minutes += read_decimal(&r, 2);
        if (minutes >= 24 * 60)
            return -1;
        time -= east * minutes;
    } else {
        read_if(&r, 'Z');
    }
    return r.error || reader_left(&r) ? -1 : time;
}

/* validityPeriods: is one of them now? A list that is absent or empty leaves the status valid. */
static b32 tfl_parse_periods(json *j, i64 now)
{
    b32 any = 0, applies = 0;
    if (!json_enter(j, JSON_ARRAY))
        return 1;
    while (json_element(j)) {
        i64 from = -1, to = -1;
        any = 1;
        if (!json_walk_start(j, "fromDate toDate isNow"))
            continue;
        for (i32 i; (i = json_walk_next(j)) >= 0;) {
            if (i == 2)
                applies |= json_is_true(j);
            else
                *(i ? &to : &from) = time_parse(json_text(j));
        }
        applies |= from >= 0 && from <= now && now <= to;
    }
    return applies || !any;
}

static line_status *tfl_parse_status(json *j, i64 now)
{
    line_status *s = arena_new(j->arena, line_status, 1);
    if (!s)
        json_fail(j, E_OutOfMemory);
    if (!json_walk_start(j, "statusSeverity statusSeverityDescription reason validityPeriods"))
        return 0;
    s->severity = -1;
    s->now = 1;
    for (i32 i; (i = json_walk_next(j)) >= 0;) {
        if (i == 0)
            s->severity = json_small(j, 1000);
        else if (i == 1)
            s->description = json_text(j);
        else if (i == 2)
            s->reason = str_trim(json_text(j));
        else
            s->now = tfl_parse_periods(j, now);
    }
    return s;
}

static line *tfl_parse_line(json *j, i64 now)
{
    line *l = arena_new(j->arena, line, 1);
    if (!l)
        json_fail(j, E_OutOfMemory);
    if (!json_walk_start(j, "id name lineStatuses"))
        return 0;
    for (i32 i; (i = json_walk_next(j)) >= 0;) {
        if (i == 0) {
            l->id = json_text(j);
        } else if (i == 1) {
            l->name = str_trim(json_text(j));
        } else if (json_enter(j, JSON_ARRAY)) {
            line_status **tail = &l->statuses;
            while (json_element(j))
                if ((*tail = tfl_parse_status(j, now)))
                    tail = &(*tail)->next;
        }
    }
    return l;
}

/* Appends the lines of an answer to the list. False unless it is an array of lines, one at least,
 * that have a name and an id. */
static b32 tfl_parse_lines(json *j, i64 now, line **list)
{
    b32 good = 0;
    while (*list)
        list = &(*list)->next;
    if (json_enter(j, JSON_ARRAY))
        while (json_element(j)) {
            line *l = tfl_parse_line(j, now);
            good = l && l->name.len && l->id.len;
            if (!good)
                json_fail(j, E_JsonShape);
            if (l) {
                *list = l;
                list = &l->next;
            }
        }
    return good;
}

/* Ends the target with the credentials, and asks. */
static err tfl_ask(inquiry *q)
{
    const setting *at = q->task->skill->secrets.at;
    str id = at[SETTING_APP_ID].value, key = at[SETTING_APP_KEY].value;
    if (id.len) {
        put_text(&q->target, "?app_id=");
        http_put_encoded(&q->target, id);
    }
    if (key.len) {
        put_text(&q->target, id.len ? "&app_key=" : "?app_key=");
        http_put_encoded(&q->target, key);
    }
    return inquiry_ask(q, S(""));
}

/* Has TfL refused credentials that are secrets, and are there others now? Then it is to be asked
 * once more. They are fetched anew once for an event, and not again for a while if they are still
 * the same. */
static b32 tfl_again(inquiry *q)
{
    task *t = q->task;
    secrets *s = &t->skill->secrets;
    i64 now = os_monotonic();
    b32 secret = s->at[SETTING_APP_ID].store || s->at[SETTING_APP_KEY].store;
    if ((q->status != 401 && q->status != 403) || !secret || t->renewed || now < s->calm_until)
        return 0;
    t->renewed = 1;
    s->at[SETTING_APP_ID].refused = s->at[SETTING_APP_KEY].refused = 1;
    b32 others = secrets_fetch(t);
    if (!others)
        s->calm_until = now + SECRETS_PAUSE;
    return others;
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
    inquiry q;
    err error;
    invariant(count > 0 && count <= LINES_PER_CALL);
    do {
        inquiry_start(&q, t, &t->skill->tfl, "TfL status");
        put_text(&q.target, "Line/");
        for (iz i = 0; i < count; i++) {
            invariant(line_id_valid(ids[i]));
            if (i)
                put_text(&q.target, "%2C");
            put(&q.target, ids[i]);
        }
        put_text(&q.target, "/Status");
        error = tfl_ask(&q);
    } while (tfl_again(&q));
    if (error)
        return error == E_HttpStatus && q.status == 404 ? E_LineUnknown : error;
    return inquiry_end(&q, tfl_parse_lines(&q.answer, t->now, lines));
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

/* A blank, unless nothing or a blank stands before it. */
static void put_blank(writer *w)
{
    if (w->len && writer_last(w) != ' ')
        put_byte(w, ' ');
}

/* The text with each run of white space as one blank and none at its ends; a run of full stops is
 * one. With `stop` there is a full stop behind it unless it ends a sentence already. Control
 * characters, which SSML and cards cannot hold, count as white space. */
static str text_tidy(arena *a, str raw, b32 stop)
{
    writer w = arena_writer(a, raw.len + 1);
    for (iz i = 0; i < raw.len; i++) {
        u8 c = raw.ptr[i];
        if (c <= ' ' || c == 0x7f)
            put_blank(&w);
        else if (c != '.' || writer_last(&w) != '.')
            put_byte(&w, c);
    }
    if (writer_last(&w) == ' ')
        writer_cut(&w, w.len - 1);
    if (stop && w.len && !is_one_of(writer_last(&w), ".!?"))
        put_byte(&w, '.');
    return arena_keep(a, &w);
}

/* GET /Line/Mode/.../Disruption: each distinct description once, first spelling kept, in
 * alphabetical order without case. */
static err tfl_disruption(task *t, messages *m)
{
    inquiry q;
    json *j = &q.answer;
    err error;
    do {
        inquiry_start(&q, t, &t->skill->tfl, "TfL disruption");
        put_text(&q.target, "Line/Mode/dlr%2Celizabeth-line%2Coverground%2Ctube/Disruption");
        error = tfl_ask(&q);
    } while (tfl_again(&q));
    if (error)
        return error;
    b32 array = json_enter(j, JSON_ARRAY);
    while (array && json_element(j)) {
        if (!json_walk_start(j, "description"))
            continue;
        while (json_walk_next(j) >= 0) {
            str text = text_tidy(t->arena, json_text(j), 0);
            iz at = 0;
            while (at < m->count && str_order_nocase(m->text[at], text) < 0)
                at++;
            if (text.len && !(at < m->count && str_eq_nocase(m->text[at], text)))
                messages_insert(m, at, text);
        }
    }
    for (iz i = 0; i < m->count; i++)
        m->text[i] = text_tidy(t->arena, m->text[i], 1);
    return inquiry_end(&q, array);
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
    inquiry q;
    json *j = &q.answer;
    b32 listed = 0;
    err odd = E_None;
    inquiry_start(&q, t, &t->skill->preferences, "preferences");
    put_text(&q.target, "api/preferences");
    q.service->connection.trace = t->trace_id;
    if (!t->skill->tfl.error) /* which is asked next */
        q.service->connection.meanwhile = &t->skill->tfl.connection;
    err error = inquiry_ask(&q, token);
    if (error)
        return q.status == 401 || q.status == 403 ? E_AccessTokenRefused : error;
    if (json_walk_start(j, "favoriteLines"))
        while (json_walk_next(j) >= 0)
            for (listed = json_enter(j, JSON_ARRAY); listed && json_element(j);) {
                str id = json_text(j);
                if (line_id_valid(id))
                    line_ids_add_today(favourites, id);
                else
                    odd = E_LineIdInvalid;
            }
    if (odd)
        log_line(&t->skill->log, LOG_WARN, "favourite left out", S(""), odd);
    return inquiry_end(&q, listed);
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

/* The lines, one a row: TfL's id, its name, and then what else people call it, folded as line_fold
 * does. The last row is no line but the six of London Overground together. */
static str line_rows(void)
{
    return S("bakerloo|Bakerloo\n"
             "central|Central\n"
             "circle|Circle\n"
             "district|District\n"
             "hammersmith-city|Hammersmith & City|hammersmith and city|hammersmith city"
             "|hammersmith|h and c|h c\n"
             "jubilee|Jubilee\n"
             "metropolitan|Metropolitan|met\n"
             "northern|Northern\n"
             "piccadilly|Piccadilly\n"
             "victoria|Victoria\n"
             "waterloo-city|Waterloo & City|waterloo and city|waterloo city|waterloo|city|drain"
             "|w and c\n"
             "dlr|DLR|d l r|docklands light railway|docklands light rail|docklands railway"
             "|docklands rail|docklands\n"
             "elizabeth|Elizabeth line|crossrail|cross rail|liz|lizzie|lizzy|tfl rail\n"
             "liberty|Liberty\n"
             "lioness|Lioness\n"
             "mildmay|Mildmay\n"
             "suffragette|Suffragette\n"
             "weaver|Weaver\n"
             "windrush|Windrush\n"
             "london-overground|London Overground|london overground|overground\n");
}

/* TfL's severities in the order of their numbers: how bad each is, as a letter, and what is said,
 * with % for the line. A higher letter is worse; A is no disruption and B a number that is not in
 * the table. The order: no trains at all; parts without trains; long waits; other ways round;
 * restrictions; news. */
static str severity_row(i32 severity)
{
    return text_row(S("DThere is a special service on %.\n"
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
                      "UThe service on % is closed.\n"),
                    severity);
}

enum { SEVERITY_COUNT = 21, SEVERITY_GOOD = 10, SEVERITY_INFORMATION = 19 };

/* Is it a letter or digit, or part of one in UTF-8? */
static b32 is_word(u8 c)
{
    return is_alnum(c) || c >= 0x80;
}

/* Folds a text for comparison: lower case, "&" as "and", dots and apostrophes left out, words apart
 * by one blank. "" if it becomes longer than `cap`. */
static str text_fold(arena *a, iz cap, str text)
{
    writer out = arena_writer(a, cap), *w = &out;
    for (iz i = 0; i < text.len; i++) {
        u8 c = to_lower(text.ptr[i]);
        if (c == '&') {
            put_blank(w);
            put_text(w, "and ");
        } else if (is_word(c)) {
            put_byte(w, c);
        } else if (c < ' ' && !is_space(c)) {
            put_byte(w, '?');
        } else if (!is_one_of(c, ".'")) {
            put_blank(w);
        }
    }
    return w->error ? S("") : str_trim(written(w));
}

/* Folds what was said to the form of the table: without "the" in front and "line" behind. */
static str line_fold(arena *a, str said)
{
    str folded = text_fold(a, LINE_FOLD_MAX, said);
    while (str_starts(folded, S("the ")))
        folded = str_from(folded, 4);
    while (str_ends(folded, S(" line")))
        folded.len -= 5;
    return folded;
}

/* A line of the table. */
typedef struct {
    str id, name;
} known_line;

/* The line that is meant by what was said; false if there is none. */
static b32 line_find(arena *a, str said, known_line *found)
{
    str folded = line_fold(a, said), rows = line_rows();
    while (folded.len && rows.len) {
        str row = str_cut(&rows, '\n'), called = str_cut(&row, '|');
        found->id = called;
        found->name = str_cut(&row, '|');
        for (; called.len; called = str_cut(&row, '|'))
            if (str_eq(called, folded))
                return 1;
    }
    return 0;
}

/* A run of such characters. */
static str read_word(reader *r)
{
    const u8 *start = r->at;
    while (is_word(reader_peek(r)))
        read_byte(r);
    return (str){start, r->at - start};
}

/* Is the next word the name of a saint, as it stands in the names of places? Letters s at the end,
 * as in James's and St Albans, and the apostrophe do not count. It is put together in the room
 * that w has, which holds the word as well when it is said. */
static b32 say_is_saint(writer *w, reader *text)
{
    iz start = w->len;
    for (u8 c; c = reader_peek(text), is_word(c) || c == '\''; read_byte(text))
        if (is_alnum(c)) /* not an apostrophe of either form */
            put_byte(w, to_lower(c));
    str name = str_from(written(w), start);
    while (str_at(name, name.len - 1) == 's')
        name.len--;
    i32 saint = str_word(
        name,
        "pancra paul jame john alban andrew ann anne barnaba dunstan george gile helen helier "
        "katharine leonard luke margaret mark martin mary matthew michael neot nichola olave "
        "peter quintin raphael saviour stephen thoma");
    writer_cut(w, start);
    return saint >= 0;
}

/* Steps over the "/b" of N/b, if that is what follows. */
static b32 say_is_bound(reader *text)
{
    const u8 *behind = text->at;
    if (read_if(text, '/') && read_one_of(text, "bB") && !is_word(reader_peek(text)))
        return 1;
    text->at = behind;
    return 0;
}

/* Does no saint follow the "St"? Then it is a street's, and a dot behind it is stepped over that
 * abbreviates and does not end the sentence. */
static b32 say_is_street(writer *w, reader *text)
{
    const u8 *behind = text->at;
    while (read_one_of(text, ". "))
        ;
    b32 saint = say_is_saint(w, text);
    text->at = behind;
    if (saint)
        return 0;
    if (read_if(text, '.')) {
        while (read_if(text, ' '))
            ;
        u8 c = reader_peek(text);
        text->at = behind + (is_alnum(c) && !is_upper(c));
    }
    return 1;
}

/* How a word is said. The text behind it moves on over what belongs to the abbreviation. `named`
 * tells whether a word with a capital stands before it, as before the St of a street. */
static str say_word(writer *w, reader *text, str word, b32 named)
{
    static const struct {
        char word[5], said[11];
    } words[] = {
        {"DLR", "D.L.R."},   {"TfL", "T.F.L."},   {"TFL", "T.F.L."},   {"Rd", "Road"},
        {"Stn", "station"},  {"stn", "station"},  {"mins", "minutes"}, {"Mins", "minutes"},
        {"N", "northbound"}, {"n", "northbound"}, {"S", "southbound"}, {"s", "southbound"},
        {"E", "eastbound"},  {"e", "eastbound"},  {"W", "westbound"},  {"w", "westbound"},
        {"St", "Street"},    {"ST", "Street"},
    };
    for (iz i = 0; i < countof(words); i++) {
        if (!str_is(word, words[i].word))
            continue;
        str said = T(words[i].said);
        if (word.len == 1 ? say_is_bound(text)
                          : !str_is(said, "Street") || (named && say_is_street(w, text)))
            word = said;
        break;
    }
    return word;
}

/* Writes text as SSML to be spoken: verbalised, escaped, with no two full stops in a row. */
static void say_put(writer *w, str text)
{
    reader r = reader_of(text);
    u8 first = 0;  /* letter of this run of what is no blank */
    b32 named = 0; /* does a run that begins with a capital end here, or before the blanks here */
    while (reader_left(&r)) {
        str word = read_word(&r);
        if (word.len) {
            put(w, say_word(w, &r, word, named && !first));
            first = first ? first : word.ptr[0];
            named = is_upper(first);
            continue;
        }
        u8 c = read_byte(&r);
        if (c == ' ')
            first = 0;
        else
            named = 0;
        if (c == '&') {
            put_blank(w);
            put_text(w, "and");
            if (reader_peek(&r) != ' ')
                put_byte(w, ' ');
        } else if (c == '<')
            put_text(w, "&lt;");
        else if (c == '>')
            put_text(w, "&gt;");
        else if (c != '.' || writer_last(w) != '.')
            put_byte(w, c);
    }
}

/* The longest beginning of at most max bytes that ends with a sentence; where the first sentence is
 * longer, one that ends with a word; never inside a character or SSML entity. A dot behind a single
 * letter, as in D.L.R., ends no sentence. */
static str text_cut(str s, iz max)
{
    iz sentence = 0, word = 0, character = 0, entity = -4; /* &lt; has four bytes */
    iz letters = 0;                                        /* of the word right before c */
    if (s.len <= max)
        return s;
    for (iz i = 1; i <= max; i++) {
        u8 c = s.ptr[i - 1];
        entity = c == '&' ? i : c == ';' ? -4 : entity;
        if ((s.ptr[i] & 0xc0) != 0x80 && i - entity >= 4)
            character = i;
        if (s.ptr[i] == ' ')
            word = i;
        if (word == i && (c == '!' || c == '?' || (c == '.' && letters != 1)))
            sentence = i;
        letters = is_word(c) ? letters + 1 : 0;
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
    if (!whole)
        put_text(w, " line");
}

/* A sentence of the table with the line's name for %, or "it" where the name is empty. */
static void line_put_sentence(writer *w, str sentence, str name)
{
    str rest = sentence, head = str_cut(&rest, '%');
    put_blank(w);
    iz start = w->len;
    put(w, head);
    put_text(w, name.len ? "the " : "it");
    if (name.len)
        line_put_name(w, name);
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
    return severity_row(known ? s->severity : SEVERITY_INFORMATION);
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
        put_blank(w);
        put_text(w, "TfL reports ");
        put(w, s->description);
        line_put_sentence(w, S("on %."), name);
    }
}

/* Is this prefix of a reason the line's own name, with or without "line"? What people call the
 * line is not: Hammersmith may be the station. */
static b32 line_is_called(arena *a, str prefix, str name)
{
    str called = line_fold(a, prefix), own = line_fold(a, name);
    if (str_is(called, "docklands light railway"))
        called = S("dlr");
    return called.len && str_eq(called, own);
}

/* A reason without the prefix in which TfL repeats this line's own name; nothing if it is no more
 * than that. `name` is what the line is called here. */
static str reason_of(const line *l, str name, arena *a, str raw)
{
    str text = text_tidy(a, raw, 1), rest = text, prefix = str_cut(&rest, ':');
    while (rest.len && (line_is_called(a, prefix, l->name) || line_is_called(a, prefix, name))) {
        text = rest = str_trim(rest);
        prefix = str_cut(&rest, ':');
    }
    return text.len > 1 ? text : S("");
}

/* Does the text name the line, whatever the case and the form of "and"? */
static b32 text_names(arena *a, str text, str name)
{
    b32 found = 0;
    u8 *mark = a->at;
    writer all = arena_writer(a, LINE_NAME_MAX);
    line_put_name(&all, name);
    str wanted = text_fold(a, LINE_NAME_MAX, all.error ? S("") : written(&all));
    text = text_fold(a, text.len * 5, text);
    for (iz i = 0; wanted.len && i + wanted.len <= text.len && !found; i++)
        found = str_eq(str_span(text, i, i + wanted.len), wanted);
    arena_rewind(a, mark);
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
        line_put_sentence(&w, str_from(severity_row(SEVERITY_GOOD), 1), name);
    else if (count && !(named && reasons[0].len))
        status_put(&w, now[0], name);
    for (iz i = 0; i < count; i++) {
        if (status_is_told(now, reasons, i))
            continue;
        if (reasons[i].len) {
            put_blank(&w);
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
    str title;    /* of the card; no card without one */
    str reprompt; /* the question that leaves the session open; closed without one */
    b8 link;      /* LinkAccount in place of a Standard card */
    b8 sorry;     /* it is an apology */
    messages said;
} answer;

static void answer_add(answer *r, str text)
{
    messages_insert(&r->said, r->said.count, text);
}

/* A literal. */
static void answer_say(answer *r, const char *text)
{
    answer_add(r, str_of_array(text, LITERAL_MAX));
}

/* Leaves the session open, with the usual question. */
static void answer_open(answer *r)
{
    r->reprompt = S("What would you like to know?");
}

static void answer_ask(answer *r, const char *text)
{
    answer_say(r, text);
    answer_open(r);
}

/* Messages as the inside of a JSON string, as many as fit into max bytes: as SSML, one plain and
 * several as paragraphs, or as lines of plain text. */
static void answer_put_said(writer *w, arena *a, const str *said, iz count, iz max, b32 ssml)
{
    for (iz i = 0; i < count; i++) {
        const char *before = "", *after = "";
        str text = said[i];
        if (ssml) {
            writer one = arena_writer(a, text.len * 5 + 16); /* "&" and "<" grow to 5 */
            say_put(&one, text);
            text = arena_keep(a, &one);
            if (one.error)
                w->error = one.error;
        } else if (i) {
            before = "\\u000a"; /* a line feed, which is one character */
            max--;
        }
        if (ssml && count > 1) {
            before = "<p>";
            after = "</p>";
            max -= S("<p></p>").len;
        }
        if (max <= 0)
            return;
        str fits = text_cut(text, max);
        b32 whole = fits.len == text.len;
        if ((!fits.len && !ssml) || (!whole && i && !str_ends(fits, S("."))))
            return;
        put_text(w, before);
        json_put_escaped(w, fits);
        put_text(w, after);
        max -= fits.len;
        if (!whole)
            return;
    }
}

static void answer_put_voice(writer *w, arena *a, const str *said, iz count, iz max)
{
    put_text(w, "\"outputSpeech\":{\"type\":\"SSML\",\"ssml\":\"<speak>");
    answer_put_said(w, a, said, count, max - S("<speak></speak>").len, 1);
    put_text(w, "</speak>\"}");
}

static void answer_put_card(writer *w, arena *a, const answer *r, iz max)
{
    if (r->link) {
        put_text(w, ",\"card\":{\"type\":\"LinkAccount\"}");
    } else if (r->title.len) {
        str title = text_cut(r->title, ALEXA_CARD_TITLE_MAX);
        put_text(w, ",\"card\":{\"type\":\"Standard\"");
        json_put_member(w, "title", title);
        put_text(w, ",\"text\":\"");
        answer_put_said(w, a, r->said.text, r->said.count, max - title.len, 0);
        put_text(w, "\"}");
    }
}

/* One try at a response in which speech and card have at most `max` bytes each. */
static str answer_try(const answer *r, arena *a, iz max)
{
    const messages *said = &r->said;
    writer w = arena_writer(a, ALEXA_RESPONSE_MAX);
    u8 *mark = a->at;
    put_text(&w, "{\"version\":\"1.0\"");
    if (r->reprompt.len) {
        put_text(&w, ",\"sessionAttributes\":{\"speech\":\"");
        answer_put_said(&w, a, said->text, said->count, max, 0);
        put_text(&w, "\"}");
    }
    put_text(&w, ",\"response\":{");
    if (said->count) {
        answer_put_voice(&w, a, said->text, said->count, max);
        answer_put_card(&w, a, r, max);
        if (r->reprompt.len) {
            put_text(&w, ",\"reprompt\":{");
            answer_put_voice(&w, a, &r->reprompt, 1, max);
            put_byte(&w, '}');
        }
        put_text(&w, ",\"shouldEndSession\":");
        put_text(&w, r->reprompt.len ? "false" : "true");
    }
    put_text(&w, "}}");
    arena_rewind(a, mark);
    return w.error ? (str){0, 0} : arena_keep(a, &w);
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
    r->sorry = 1;
    answer_say(r, preferences ? "Sorry, I can't reach your preferences. Please try again later."
                              : "Sorry, I can't get the latest from TfL. Please try again later.");
}

static void intent_launch(answer *r)
{
    answer_say(r, "Welcome to London Travel. Ask me about a line, about disruption, or about your "
                  "commute. What would you like to know?");
    r->reprompt = S("What would you like to know? You could say: how is the Victoria line?");
}

static void intent_help(answer *r)
{
    answer_ask(r, "I can tell you how trains are running on the Tube, London Overground, the "
                  "DLR and the Elizabeth line. Say: how is the Central line, or: is there any "
                  "disruption. Once your account is linked, say: how is my commute. What would "
                  "you like to know?");
}

static void intent_goodbye(answer *r)
{
    answer_say(r, "Goodbye, and travel safely.");
}

static void intent_sorry_what(answer *r)
{
    answer_ask(r, "Sorry, I can't help with that. Ask me about a line, about disruption, or "
                  "about your commute. What would you like to know?");
}

static void intent_repeat(task *t, const alexa_request *q, answer *r)
{
    str last = text_cut(q->member[ALEXA_SPEECH], ALEXA_TEXT_MAX);
    last = text_tidy(t->arena, last, 1);
    if (!last.len)
        last = S("There is nothing to repeat yet. What would you like to know?");
    answer_add(r, last);
    answer_open(r);
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
        answer_add(r, first);
        return;
    }
    for (const line *l = lines; l; l = l->next) {
        iz count = statuses_now(l, now);
        good = l->statuses && (!count || (!status_badness(now[0]) && !now[0]->reason.len));
        rest |= good;
        if (!good)
            answer_add(r, line_message(l, l->name, t->arena));
    }
    if (rest)
        answer_say(r, "There is a good service on the other London Overground lines.");
}

/* The states of lines in groups of LINES_PER_CALL; a group that TfL answers with 404 is asked line
 * by line. Lines that TfL does not know are counted in *unknown. */
static err lines_status(task *t, const line_ids *ids, line **lines, iz *unknown)
{
    for (iz at = 0, apart = 0; at < ids->count;) { /* those before `apart` are asked one by one */
        iz left = ids->count - at, count = left < LINES_PER_CALL ? left : LINES_PER_CALL;
        if (at < apart)
            count = 1;
        err error = tfl_status(t, ids->id + at, count, lines);
        if (error && error != E_LineUnknown)
            return error;
        if (error && count > 1) {
            apart = at + count;
            continue;
        }
        *unknown += error == E_LineUnknown;
        at += count;
    }
    return E_None;
}

static void intent_status(task *t, const alexa_request *q, answer *r)
{
    line_ids ids = {0};
    line *lines = 0;
    iz unknown = 0;
    known_line wanted;
    i32 said = ALEXA_SLOT_ID;
    while (said >= ALEXA_SLOT && !line_find(t->arena, q->member[said], &wanted))
        said--;
    if (said < ALEXA_SLOT) {
        r->reprompt = S("Which line would you like to hear about?");
        answer_say(r,
                   q->member[ALEXA_SLOT].len
                       ? "Sorry, I don't know that line. Which line would you like to hear about?"
                       : "Which line would you like to hear about?");
        return;
    }
    log_tell(&t->skill->log, "lineId", wanted.id);
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
        answer_add(r, line_message(lines, wanted.name, t->arena));
}

static void intent_disruption(task *t, answer *r)
{
    if (tfl_disruption(t, &r->said)) {
        r->said.count = 0;
        intent_apologise(r, 0);
        return;
    }
    r->title = S("Disruption");
    answer_say(r, r->said.count ? "No other disruption is reported."
                                : "There is no disruption on the Tube, London Overground, the DLR "
                                  "or the Elizabeth line.");
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
    answer_say(r, "To hear about your commute, please link your account. I've sent a card to "
                  "the Alexa app that shows how.");
}

static void intent_commute(task *t, const alexa_request *q, answer *r)
{
    line_ids favourites = {0};
    line *lines = 0;
    iz unknown = 0;
    str token = alexa_token(q);
    if (t->skill->preferences.error == E_PreferencesNotSet) {
        answer_say(r, "Sorry, your commute isn't set up in this skill.");
        return;
    }
    err error = E_AccessTokenInvalid;
    if (alexa_token_valid(token))
        error = preferences_get(t, token, &favourites);
    else if (token.len)
        log_line(&t->skill->log, LOG_ERROR, "access token", S(""), error);
    if (error == E_AccessTokenInvalid || error == E_AccessTokenRefused) {
        intent_link(r);
        return;
    }
    if (error) {
        intent_apologise(r, 1);
        return;
    }
    if (!favourites.count) {
        answer_say(r, "You haven't chosen any favourite lines yet. You can choose them on the "
                      "London Travel website.");
        return;
    }
    error = lines_status(t, &favourites, &lines, &unknown);
    if (error || (!lines && !unknown)) {
        intent_apologise(r, 0);
        return;
    }
    r->title = S("Your commute");
    for (line *l = lines_sorted(lines); l; l = l->next)
        answer_add(r, line_message(l, l->name, t->arena));
    if (unknown)
        answer_say(r, unknown > 1 ? "TfL doesn't know some of your favourite lines."
                                  : "TfL doesn't know one of your favourite lines.");
}

/* The skill's intents, in the order of their names, by which existing voice models call them. The
 * model that the development program prints is made from this list, line_rows and ALEXA_LINE. */
enum {
    INTENT_STATUS,
    INTENT_DISRUPTION,
    INTENT_COMMUTE,
    INTENT_HELP,
    INTENT_REPEAT,
    INTENT_FALLBACK,
    INTENT_GOODBYE, /* and two more */
};

static const char *intent_names(void)
{
    return "StatusIntent DisruptionIntent CommuteIntent AMAZON.HelpIntent AMAZON.RepeatIntent "
           "AMAZON.FallbackIntent AMAZON.StopIntent AMAZON.CancelIntent AMAZON.NavigateHomeIntent";
}

/* False for an intent that is not the skill's: it gets a polite answer all the same. */
static b32 intent_answer(task *t, const alexa_request *q, answer *r)
{
    log_tell(&t->skill->log, "intent", q->member[ALEXA_INTENT]);
    i32 intent = str_word(q->member[ALEXA_INTENT], intent_names());
    if (intent == INTENT_STATUS)
        intent_status(t, q, r);
    else if (intent == INTENT_DISRUPTION)
        intent_disruption(t, r);
    else if (intent == INTENT_COMMUTE)
        intent_commute(t, q, r);
    else if (intent == INTENT_HELP)
        intent_help(r);
    else if (intent == INTENT_REPEAT)
        intent_repeat(t, q, r);
    else if (intent >= INTENT_GOODBYE)
        intent_goodbye(r);
    else
        intent_sorry_what(r);
    return intent >= 0;
}

/* The types of requests, in the order of their names. */
enum { REQUEST_LAUNCH, REQUEST_INTENT, REQUEST_SESSION_ENDED, REQUEST_EXCEPTION };

/* Answers a request. A type that takes no speech, or that is not known, leaves the answer empty,
 * which is written as the minimal valid response. */
static void alexa_answer(task *t, const alexa_request *q, answer *r)
{
    i32 type = str_word(q->member[ALEXA_TYPE], "LaunchRequest IntentRequest SessionEndedRequest "
                                               "System.ExceptionEncountered");
    const char *what = "session ended by";
    str which = q->member[ALEXA_ERROR];
    log_level level = LOG_ERROR;
    err error = E_SkillException;
    log_tell(&t->skill->log, "requestType", q->member[ALEXA_TYPE]);
    if (type == REQUEST_LAUNCH) {
        intent_launch(r);
        return;
    } else if (type == REQUEST_INTENT) {
        if (intent_answer(t, q, r))
            return;
        what = "intent";
        which = q->member[ALEXA_INTENT];
        level = LOG_WARN;
        error = E_UnhandledIntent;
    } else if (type == REQUEST_SESSION_ENDED) {
        log_tell(&t->skill->log, "reason", q->member[ALEXA_REASON]);
        if (!which.len)
            return;
    } else if (type == REQUEST_EXCEPTION) {
        what = "exception";
    } else {
        what = "request type";
        which = q->member[ALEXA_TYPE];
        level = LOG_WARN;
        error = E_UnhandledRequestType;
    }
    log_line(&t->skill->log, level, what, which, error);
}

/* ---------------------------------------------------------------------------------------------
 * 16 the loop
 *
 * The program in summary: ask Lambda for an event, make a response of it, hand it back. What one
 * invocation used is wiped before the next one. The first request is on its way before anything
 * that only an event needs is set up.
 *
 * On Lambda Managed Instances several events come at once: AWS's "Building custom runtimes for
 * Lambda Managed Instances" wants AWS_LAMBDA_MAX_CONCURRENCY calls of `next` at a time. Here each
 * is made by a process of its own with a loop of its own. They share the log, where a line is one
 * write and stays whole, and the process that watches over them.
 * ------------------------------------------------------------------------------------------ */

enum { START_ALONE = 0, START_COPY = -1 };

/* From the bytes of an event to the bytes of its response. Errors are for /error: the event is not
 * one that this skill answers. Trouble with TfL or the preferences is not among them: the user
 * hears of it in a response. */
static err skill_handle(skill *s, const invocation *i, arena *a, str *response)
{
    alexa_request q;
    task t = {s, a, i->deadline, os_unix_ms() / 1000, i->trace_id, 0};
    s->tfl.connection.opened = s->preferences.connection.opened = OPENED_NOT;
    s->tfl.tries = s->preferences.tries = 0;
    s->tfl.spent = 0;
    answer *r = arena_new(a, answer, 1);
    err error = i->error ? i->error : !r ? E_OutOfMemory : alexa_parse(i->event, a, &q);
    error = error ? error : skill_verify(&t, &q);
    if (error)
        return error;
    stage_enter(s->tfl.connection.net, STAGE_SPEECH);
    alexa_answer(&t, &q, r);
    *response = answer_write(r, a);
    if (!response->ptr)
        return E_OutOfMemory;
    b32 noted = !r->said.count;
    s->log.failed = r->sorry || (noted && s->log.error);
    s->log.outcome = r->sorry  ? S("apologised")
                     : r->link ? S("link-account")
                     : noted   ? S("noted")
                               : S("answered");
    return E_None;
}

/* The line of an invocation, once Lambda has its answer; its times end here. It is at most id 512,
 * trace 128, told 256, two services 130, stages 260, metrics 550 and 200 of the rest. */
static void skill_log(skill *s, network *net)
{
    u8 buf[LOG_LINE_MAX];
    logger *log = &s->log;
    stages *times = &net->stages;
    b32 asked = s->tfl.tries || s->preferences.tries;
    i64 handshake = times->spent[STAGE_HANDSHAKE], whole = 0;
    stage_enter(net, STAGE_WAIT);
    for (i32 i = STAGE_WAIT + 1; i < STAGE_COUNT; i++)
        whole += times->spent[i];
    i64 metric[METRIC_COUNT] = {whole, s->tfl.tries ? s->tfl.spent : -1, handshake ? handshake : -1,
                                asked ? times->retries : -1, log->failed};
    if (log->least > LOG_INFO)
        return;
    writer w = writer_of(buf, countof(buf));
    i64 now = log_put_start(&w, log, 1, LOG_INFO);
    log_put(&w, 1, "message", S("invocation"));
    put_text(&w, log->told_len ? "," : "");
    put(&w, (str){log->told, log->told_len});
    json_put_member(&w, "outcome", log->outcome);
    if (log->error) {
        str sentence;
        json_put_member(&w, "errorType", err_name(log->error, &sentence));
    }
    service_put(&w, "tfl", &s->tfl);
    service_put(&w, "preferences", &s->preferences);
    log_put_stages(&w, times);
    log_put_emf(&w, log, now, metric);
    log_end(&w, log, 1);
}

/* Handles one event. An error means that the runtime should end. */
static err skill_invoke(skill *s, lambda *l, const invocation *i, arena *a)
{
    str response;
    err error = skill_handle(s, i, a, &response);
    network *net = l->connection.net;
    if (!error && a->end - a->at < response.len + LAMBDA_POST_ROOM)
        error = E_OutOfMemory;
    stage_enter(net, STAGE_RESPOND);
    if (error) {
        log_line(&s->log, LOG_ERROR, "event refused", S(""), error);
        s->log.outcome = S("refused");
        s->log.failed = 1;
        error = lambda_report(l, a, i, error);
    } else {
        error = lambda_respond(l, a, i, response);
    }
    skill_log(s, net);
    return error;
}

/* Receives the event that was waited for, and handles it; `error` is that of the wait, and there
 * were `failures` before it in a row. An error means that the runtime should end. Not inlined: the
 * start of the program should lie together (Makefile, EARLY), and this is the rest of it. */
static __attribute__((noinline)) err skill_serve(skill *s, lambda *l, arena *a, iz *failures,
                                                 err error)
{
    invocation i;
    log_reset(&s->log);
    stages_start(l->connection.net, s->log.least <= LOG_INFO);
    error = error ? error : lambda_receive(l, a, &i);
    if (!error) {
        *failures = 0;
        error = skill_invoke(s, l, &i, a);
    } else if (error != E_RuntimeApiStatus && ++*failures < LAMBDA_TRIES) {
        log_line(&s->log, LOG_WARN, "no event", S(""), error);
        connection_close(&l->connection);
        os_sleep(os_monotonic() + (*failures - 1) * RETRY_PAUSE);
        error = E_None;
    }
    l->connection.net->stages = (stages){.now = STAGE_WAIT}; /* also where there was no event */
    if (error)
        log_line(&s->log, LOG_FATAL, "the runtime ends", S(""), error);
    return error;
}

/* Somebody has started it by hand. */
static __attribute__((noinline)) void skill_misplaced(void)
{
    os_log(S("bootstrap: AWS_LAMBDA_RUNTIME_API is missing or malformed. AWS Lambda starts this "
             "program; to try it here, type: make run\n"));
}

/* Waits to be restored from a snapshot. All that was made for it is gone afterwards: connections,
 * tickets, answers of DNS and whatever else skill_run has are made by the copy, with randomness
 * that the kernel draws anew (AWS's "Handling uniqueness with Lambda SnapStart"). */
static err skill_restore(arena *a, const char *const *env, logger *log)
{
    lambda *l = arena_new(a, lambda, 1);
    network *net = arena_new(a, network, 1);
    invariant(l && net);
    net->process = a;
    net->env = env;
    l->log = log;
    err error = lambda_init(l, net);
    if (!error)
        error = lambda_restore(l, a);
    arena_reset(a);
    return error;
}

/* How many workers `text` asks for: 1 to WORKERS_MAX. */
static i32 worker_count(str text, logger *log)
{
    u64 n = 1;
    if (text.len && (!str_to_uint(text, 1ull << 62, &n) || !n || n > WORKERS_MAX)) {
        n = n > WORKERS_MAX ? WORKERS_MAX : 1;
        log_line(log, LOG_ERROR, n > 1 ? "256 workers" : "one worker", S(""), E_WorkerCount);
    }
    return (i32)n;
}

typedef struct {
    i32 id;
    i64 start;
} worker;

static i32 worker_start(worker *w)
{
    w->start = os_monotonic();
    w->id = os_copy();
    return w->id;
}

static void worker_tell(i32 status, logger *log)
{
    u8 buf[64];
    writer w = writer_of(buf, countof(buf));
    put_text(&w, "exit=");
    put_uint(&w, (u64)(status >> 8 & 255), 1);
    put_text(&w, ",signal=");
    put_uint(&w, (u64)(status & 127), 1);
    log_line(log, LOG_ERROR, "worker", written(&w), E_WorkerEnded);
}

/* Starts workers, and another in the place of each that ends, after a pause if it lived for a
 * short time only. Returns 0 in a worker. In the process that watches over them, which takes no
 * byte from outside: the exit status when it gives up, and the workers end with it.
 *
 * A worker that dies in `next` leaves its place there taken until an event was sent to it in vain
 * (runtime_pool.go of AWS's emulator), so that another gets a 500 while all the others wait, too.
 * To give up is right then: nothing is lost with an idle runtime, and Lambda starts it anew. */
static i32 workers_watch(i32 count, logger *log)
{
    worker all[WORKERS_MAX];
    i32 failures = 0, status = 0, id = 1;
    for (i32 i = 0; i < count && id > 0; i++)
        id = worker_start(&all[i]);
    while (id > 0) {
        i32 i = 0;
        id = os_wait_copy(&status);
        while (i < count && all[i].id != id)
            i++;
        if (i == count) /* as the first process of a container it is given others' orphans, too */
            continue;
        worker_tell(status, log);
        failures = os_monotonic() - all[i].start < WORKER_LIFE ? failures + 1 : 0;
        if (failures > WORKER_FAILURES)
            break;
        os_sleep(os_monotonic() + failures * WORKER_PAUSE);
        id = worker_start(&all[i]);
    }
    if (id)
        log_line(log, LOG_FATAL, "the runtime ends", S(""), id > 0 ? E_WorkersFail : E_WorkerStart);
    return id ? 1 : 0;
}

/* What comes before the loop in a copy: of a snapshot, or of a process that has several workers. A
 * snapshot is restored first, once for all of them. Not inlined, as skill_serve. */
static __attribute__((noinline)) i32 skill_multiply(arena *a, const char *const *env, b32 restored,
                                                    str concurrency)
{
    logger log = {0};
    log_init(&log, env);
    err error = restored ? skill_restore(a, env, &log) : E_None;
    if (error) {
        log_line(&log, LOG_FATAL, "not restored", S(""), error);
        return 1;
    }
    i32 count = worker_count(concurrency, &log);
    if (count > 1) {
        u8 *stack = arena_alloc(a, CRASH_STACK);
        invariant(stack);
        os_catch_crashes(stack);
    }
    i32 status = count > 1 ? workers_watch(count, &log) : 0;
    return status ? status : START_COPY;
}

/* What comes before the loop: START_ALONE when nothing does; START_COPY in a process that shares
 * its memory's past, the stack guard, with others; or the exit status. */
static i32 skill_start(arena *a, const char *const *env)
{
    b32 restored = str_is(env_get(env, "AWS_LAMBDA_INITIALIZATION_TYPE"), "snap-start");
    str concurrency = env_get(env, "AWS_LAMBDA_MAX_CONCURRENCY");
    if (!restored && !concurrency.len)
        return START_ALONE;
    return skill_multiply(a, env, restored, concurrency);
}

/* Returns the exit status, when Lambda's side has gone or says so. */
static i32 skill_run(arena *process, arena *a, const char *const *env)
{
    lambda *l = arena_new(process, lambda, 1); /* the first: os_crashed looks for it there */
    skill *s = arena_new(process, skill, 1);
    network *net = arena_new(process, network, 1);
    invariant(l && s && net);
    net->process = process;
    net->env = env;
    err error = lambda_init(l, net);
    if (error)
        skill_misplaced();
    iz failures = 0;
    l->log = &s->log;
    for (b32 first = 1; !error; first = 0) {
        s->log.request_id = s->log.trace_root = S(""); /* they lie in what goes now */
        arena_reset(a);
        error = lambda_ask(l, a, "invocation/next");
        if (!error) /* waits here, so that the pages of what comes next are not there before it */
            connection_fill(&l->connection);
        if (first)
            skill_init(s, net);
        error = skill_serve(s, l, a, &failures, error);
    }
    return 1;
}

/* ---------------------------------------------------------------------------------------------
 * 17 Linux
 *
 * System calls, start-up and the four functions that compilers call by themselves. Nothing here
 * is newer than Linux 5.10. The kernel does not look at registers for arguments that a call does
 * not have, so most calls set three. The tests leave this section out and answer for it.
 *
 * At _start the kernel has set the stack pointer, and nothing else that counts:
 *
 *   sp -> argc | argv[0] ... argv[argc-1] | 0 | envp[0] ... | 0 | auxv type, value ... | AT_NULL
 * ------------------------------------------------------------------------------------------ */
#ifndef SKILL_TEST

enum { AT_HWCAP = 16, AT_RANDOM = 25 };

/* A value of the auxiliary vector, which lies behind the environment; 0 if it has none. */
static uz os_auxiliary(const char *const *env, uz type)
{
    while (*env)
        env++;
    const uz *aux = (const uz *)(env + 1);
    while (*aux && *aux != type)
        aux += 2;
    return *aux ? aux[1] : 0;
}

#ifdef __x86_64__

enum {
    SYS_read = 0,
    SYS_write = 1,
    SYS_close = 3,
    SYS_lseek = 8,
    SYS_mmap = 9,
    SYS_munmap = 11,
    SYS_rt_sigaction = 13,
    SYS_rt_sigprocmask = 14,
    SYS_socket = 41,
    SYS_connect = 42,
    SYS_sendto = 44,
    SYS_recvfrom = 45,
    SYS_clock_gettime = 228,
    SYS_getpid = 39,
    SYS_clone = 56,
    SYS_wait4 = 61,
    SYS_getppid = 110,
    SYS_sigaltstack = 131,
    SYS_prctl = 157,
    SYS_exit_group = 231,
    SYS_openat = 257,
    SYS_ppoll = 271,
    SYS_getrandom = 318,
    CONTEXT_PC = 21, /* rip, in words of struct ucontext: flags, link, stack 3, then 16 registers */
};

/* The kernel leaves all registers but rax (the result), rcx and r11 as they were. */
static long system_call(long n, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(n), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}

static long system_call_of_six(long n, long a, long b, long c, long d, long e, long f)
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

/* EBX and ECX of CPUID for a leaf. In a virtual machine it traps, which takes 4 to 12 us. */
static void os_cpuid(u32 leaf, u32 *b, u32 *c)
{
    u32 d;
    *c = 0;
    __asm__ volatile("cpuid" : "+a"(leaf), "=b"(*b), "+c"(*c), "=d"(d));
}

/* Leaf 7 has SHA in bit 29 of EBX, VAES in bit 9 of ECX and VPCLMULQDQ in bit 10; a processor too
 * old for it gives its last leaf, where none of these is set. With the wide forms of AES-NI and
 * PCLMULQDQ the narrow ones are there, and one question does. Else leaf 1 has those in ECX, in bits
 * 25 and 1. (Intel's manual, volume 2, CPUID) */
static u32 os_cpu(const char *const *env)
{
    u32 b, c;
    (void)env;
    os_cpuid(7, &b, &c);
    u32 sha = b >> 29 & 1 ? CPU_SHA : 0;
    b32 wide = c >> 9 & c >> 10 & 1;
    if (!wide)
        os_cpuid(1, &b, &c);
    return sha | (wide || (c >> 25 & c >> 1 & 1) ? CPU_AES : 0);
}

#else /* aarch64 */

enum {
    SYS_openat = 56,
    SYS_close = 57,
    SYS_lseek = 62,
    SYS_read = 63,
    SYS_write = 64,
    SYS_ppoll = 73,
    SYS_exit_group = 94,
    SYS_clock_gettime = 113,
    SYS_sigaltstack = 132,
    SYS_rt_sigaction = 134,
    SYS_rt_sigprocmask = 135,
    SYS_prctl = 167,
    SYS_getpid = 172,
    SYS_getppid = 173,
    SYS_socket = 198,
    SYS_connect = 203,
    SYS_sendto = 206,
    SYS_recvfrom = 207,
    SYS_munmap = 215,
    SYS_clone = 220,
    SYS_mmap = 222,
    SYS_wait4 = 260,
    SYS_getrandom = 278,
    CONTEXT_PC = 55, /* pc, in words of struct ucontext: 22 before it, fault address, x0-x30, sp */
};

/* The kernel leaves all registers but x0 (the result) as they were. */
static long system_call(long n, long a, long b, long c)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}

static long system_call_of_six(long n, long a, long b, long c, long d, long e, long f)
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

/* HWCAP has AES in bit 3, PMULL in bit 4 and SHA2 in bit 6 (Documentation/arm64/elf_hwcaps.rst). */
static u32 os_cpu(const char *const *env)
{
    u64 has = os_auxiliary(env, AT_HWCAP);
    return (has >> 3 & has >> 4 & 1 ? CPU_AES : 0) | (has >> 6 & 1 ? CPU_SHA : 0);
}

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
    EISCONN = 106,
    EINTR = 4,
    AF_INET = 2,
    AF_INET6 = 10,
    SOCK_STREAM = 1,
    SOCK_DGRAM = 2,
    SOCK_NONBLOCK = 04000,
    SOCK_CLOEXEC = 02000000,
    MSG_DONTWAIT = 0x40,
    MSG_NOSIGNAL = 0x4000,
    POLLIN = 1,
    POLLOUT = 4,
    CLOCK_REALTIME = 0,
    CLOCK_MONOTONIC = 1,
    AT_FDCWD = -100,
    O_CLOEXEC = 02000000,
    SEEK_END = 2,
    PR_SET_PDEATHSIG = 1,
    SIGILL = 4,
    SIGKILL = 9,
    SIGSEGV = 11,
    SIGPIPE = 13,
    SIGCHLD = 17,
    PROT_READ = 1,
    MAP_PRIVATE = 2,
    SIG_IGN = 1,
    SIG_UNBLOCK = 1,
    SA_SIGINFO = 4,
    SA_RESTORER = 0x04000000,
    SA_ONSTACK = 0x08000000,
};

typedef struct {
    i64 seconds, nanoseconds;
} timespec;

/* Eight bytes at any address; may overlay objects of any type. */
typedef u64 __attribute__((may_alias, aligned(1))) word;

/* The empty asm statements keep compilers from taking a loop for the very function it is in.
 * memcpy goes upwards, and so serves memmove too unless `to` lies inside what is copied. */
void *memcpy(void *to, const void *from, uz n)
{
    u8 *t = to;
    const u8 *f = from;
    uz i = 0;
    for (; n - i >= 8; i += 8) {
        *(word *)(t + i) = *(const word *)(f + i);
        __asm__ volatile("" ::: "memory");
    }
    for (; i < n; i++) {
        t[i] = f[i];
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

void *memmove(void *to, const void *from, uz n)
{
    u8 *t = to;
    const u8 *f = from;
    if ((uz)t - (uz)f >= n) /* wraps to a large number where `to` lies before `from` */
        return memcpy(to, from, n);
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
    uz i = 0;
    for (; n - i >= 8; i += 8) {
        *(word *)(t + i) = pattern;
        __asm__ volatile("" ::: "memory");
    }
    for (; i < n; i++) {
        t[i] = (u8)byte;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

int memcmp(const void *a, const void *b, uz n)
{
    const u8 *x = a, *y = b;
    uz i = 0;
    while (n - i >= 8 && *(const word *)(x + i) == *(const word *)(y + i))
        i += 8;
    for (; i < n; i++) {
        if (x[i] != y[i])
            return x[i] - y[i];
        __asm__ volatile("" ::: "memory");
    }
    return 0;
}

/* Kept out of line: gcc would put its stack guard into both callers. */
__attribute__((noinline)) static i64 os_clock(long which)
{
    timespec t;
    invariant(!system_call(SYS_clock_gettime, which, (long)&t, 0));
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

/* Kept out of line: two copies are larger than two calls. */
__attribute__((noinline)) static void os_random(u8 *out, iz n)
{
    long got;
    do
        got = system_call(SYS_getrandom, (long)out, n, 0);
    while (got == -EINTR);
    invariant(got == n); /* up to 256 bytes come at once */
}

static str os_map(const char *path)
{
    str none = {0, 0};
    long fd = system_call(SYS_openat, AT_FDCWD, (long)path, O_CLOEXEC);
    if (fd < 0)
        return none;
    long n = system_call(SYS_lseek, fd, 0, SEEK_END);
    long at = n > 0 ? system_call_of_six(SYS_mmap, 0, n, PROT_READ, MAP_PRIVATE, fd, 0) : -1;
    os_close((i32)fd);
    return at < 0 && at > -4096 ? none : (str){(const u8 *)at, n};
}

static str os_read(const char *path, u8 *buf, iz cap)
{
    str file = {buf, 0};
    long got, fd = system_call(SYS_openat, AT_FDCWD, (long)path, O_CLOEXEC);
    if (fd < 0)
        return file;
    do {
        got = system_call(SYS_read, fd, (long)(buf + file.len), cap - file.len);
        file.len += got > 0 ? got : 0;
    } while (got > 0 && file.len < cap);
    os_close((i32)fd);
    return file;
}

/* Kept out of line: three copies are larger than three calls. */
__attribute__((noinline)) static void os_unmap(str file)
{
    if (file.ptr)
        system_call(SYS_munmap, (long)file.ptr, file.len, 0);
}

static err os_error(long result)
{
    static const u8 rows[][2] = {
        {ECONNREFUSED, E_ConnectRefused},
        {ECONNRESET, E_ConnectionReset},
        {EPIPE, E_ConnectionReset},
        {ETIMEDOUT, E_TimedOut},
        {EHOSTUNREACH, E_Unreachable},
        {ENETUNREACH, E_Unreachable},
        {EISCONN, E_None}, /* gVisor's word for a connect that has succeeded meanwhile */
    };
    for (iz i = 0; i < countof(rows); i++)
        if (result == -rows[i][0])
            return (err)rows[i][1];
    return E_NetworkFailure;
}

/* Waits until the socket is ready or the deadline has come. */
static err os_wait(i32 fd, i32 events, i64 deadline)
{
    struct {
        i32 fd;
        u16 events, revents;
    } poll = {fd, (u16)events, 0};
    long n;
    do {
        i64 now = os_monotonic();
        if (time_is_up(now, deadline))
            return E_TimedOut;
        u64 left = (u64)deadline - (u64)now; /* centuries for FOREVER */
        timespec t = {(i64)(left / SECOND), (i64)(left % SECOND)};
        n = system_call_of_six(SYS_ppoll, (long)&poll, 1, (long)&t, 0, 0, 0);
    } while (!n || n == -EINTR);
    return n < 0 ? os_error(n) : E_None;
}

/* poll passes over a negative descriptor. */
static void os_sleep(i64 until)
{
    os_wait(-1, 0, until);
}

/* What to do about a call that gave no bytes: E_None to try again, which may be after a wait. Kept
 * out of line: two copies are larger than two calls. */
__attribute__((noinline)) static err os_again(long result, i32 fd, i32 events, i64 deadline)
{
    if (result == -EAGAIN)
        return os_wait(fd, events, deadline);
    return result == -EINTR ? E_None : os_error(result);
}

/* Connects an open socket. A second call tells how the first one ended. The kernel takes the
 * longer address of IPv6 for IPv4 as well. */
static err os_connect_socket(i32 fd, const u32 place[7], i64 deadline)
{
    for (;;) {
        long result = system_call(SYS_connect, fd, (long)place, 28);
        if (result != -EINPROGRESS)
            return result ? os_error(result) : E_None;
        err error = os_wait(fd, POLLOUT, deadline);
        if (error)
            return error;
    }
}

static err os_connect(i32 *fd, const address *to, b32 datagram, i64 deadline)
{
    /* family and big-endian port, a u16 each; for IPv6 a flow label; the address */
    u32 family = to->v6 ? AF_INET6 : AF_INET;
    u32 place[7] = {family | (u32)__builtin_bswap16(to->port) << 16};
    copy((u8 *)(place + (to->v6 ? 2 : 1)), to->ip, 16);
    long type = (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC;
    type |= deadline == FOREVER ? 0 : SOCK_NONBLOCK;
    long s;
    do /* standard streams that are missing get a socket that leads nowhere */
        s = system_call(SYS_socket, family, type, 0);
    while (0 <= s && s <= 2);
    if (s < 0)
        return os_error(s);
    err error = os_connect_socket((i32)s, place, deadline);
    if (error)
        os_close((i32)s);
    else
        *fd = (i32)s;
    return error;
}

static err os_send(i32 fd, str data, i64 deadline)
{
    err error = E_None;
    while (data.len && !error) {
        long n = system_call_of_six(SYS_sendto, fd, (long)data.ptr, data.len, MSG_NOSIGNAL, 0, 0);
        if (n > 0)
            data = str_from(data, n);
        else
            error = os_again(n, fd, POLLOUT, deadline);
    }
    return error;
}

static iz os_recv(i32 fd, u8 *buf, iz cap, i64 deadline, err *error)
{
    long flags = deadline == FOREVER ? 0 : MSG_DONTWAIT;
    do {
        long n = system_call_of_six(SYS_recvfrom, fd, (long)buf, cap, flags, 0, 0);
        if (n >= 0)
            return n;
        *error = os_again(n, fd, POLLIN, deadline);
    } while (!*error);
    return -1;
}

/* Kept out of line: three copies are larger than three calls. */
__attribute__((noinline)) static void os_close(i32 fd)
{
    system_call(SYS_close, fd, 0, 0);
}

/* clone as fork calls it: without flags it looks at none of its further arguments. A parent that
 * has ended before it was named cannot send a signal, but then it is no longer the parent. Where
 * SIGCHLD is ignored, which a process may be started with, wait(2) tells of no child that ends. */
static i32 os_copy(void)
{
    const uz heed[4] = {0};
    system_call_of_six(SYS_rt_sigaction, SIGCHLD, (long)heed, 0, sizeof(u64), 0, 0);
    long parent = system_call(SYS_getpid, 0, 0, 0);
    long id = system_call(SYS_clone, SIGCHLD, 0, 0);
    if (id)
        return (i32)id;
    system_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0);
    if (system_call(SYS_getppid, 0, 0, 0) != parent)
        system_call(SYS_exit_group, 1, 0, 0);
    return 0;
}

static i32 os_wait_copy(i32 *status)
{
    long id;
    do
        id = system_call_of_six(SYS_wait4, -1, (long)status, 0, 0, 0, 0);
    while (id == -EINTR);
    return (i32)id;
}

static void os_log(str text)
{
    system_call(SYS_write, 2, (long)text.ptr, text.len);
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

/* What -fstack-protector puts before a function's return address and checks on the way out. Hidden,
 * so that no global offset table is needed to find it. */
extern uz __stack_chk_guard __attribute__((visibility("hidden")));
uz __stack_chk_guard;

void __stack_chk_fail(void) __attribute__((noreturn, visibility("hidden")));
void __stack_chk_fail(void)
{
    __builtin_trap();
}

static u8 process_memory[PROCESS_BYTES] __attribute__((aligned(16)));
static u8 invocation_memory[INVOCATION_BYTES] __attribute__((aligned(16)));

/* Where the image begins; given by the linker. */
extern const u8 __ehdr_start[] __attribute__((visibility("hidden")));

/* The handler. Nothing of what the program was doing is touched: it reads, writes one line on its
 * own stack, and ends the process, so that Lambda starts another. The process's memory begins with
 * skill_run's `lambda`; without one there is only the wait to be restored, or for workers' ends. */
__attribute__((noreturn)) static void os_crashed(i32 signal, const void *info, const uz *context)
{
    const lambda *l = (const lambda *)process_memory;
    u64 at = context[CONTEXT_PC] - (uz)__ehdr_start;
    str name = text_row(S("ILL\nTRAP\nABRT\nBUS\nFPE\n\n\nSEGV\n"), signal - SIGILL);
    const logger none = {0};
    (void)info;
    log_crash(l->log ? l->log : &none, name, at < IMAGE_MAX ? (i64)at : -1,
              l->log ? l->connection.net->stages.now : STAGE_WAIT);
    system_call(SYS_exit_group, 128 + signal, 0, 0);
    __builtin_trap();
}

/* All signals wait while the handler is at work, so a fault in it ends the process at once. It
 * never returns, but x86_64 will not call it without SA_RESTORER. Who started the program may have
 * blocked these signals, or have closed the other end of the log, which is no reason to end. */
static void os_catch_crashes(u8 *stack)
{
    const u64 caught = 0x9f0; /* 4 to 8, and 11 */
    u64 set = caught >> 1;
    uz place[] = {(uz)stack, 0, CRASH_STACK}; /* stack_t: where, flags, size */
    uz handler = (uz)os_crashed;
    __asm__("" : "+r"(handler)); /* in a constant it would need a relocation */
    uz action[] = {handler, SA_SIGINFO | SA_ONSTACK | SA_RESTORER, 0, ~(uz)0};
    system_call(SYS_sigaltstack, (long)place, 0, 0);
    for (long i = SIGILL; i <= SIGSEGV; i++)
        if (caught >> i & 1)
            system_call_of_six(SYS_rt_sigaction, i, (long)action, 0, sizeof set, 0, 0);
    action[0] = SIG_IGN;
    system_call_of_six(SYS_rt_sigaction, SIGPIPE, (long)action, 0, sizeof set, 0, 0);
    system_call_of_six(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&set, 0, sizeof set, 0, 0);
}

/* Kept out of line: in `start`, which has no guard, none would be checked up to the last return. */
__attribute__((noinline)) static i32 start_guarded(const char *const *env)
{
    arena process = arena_of(process_memory, PROCESS_BYTES);
    arena event = arena_of(invocation_memory, INVOCATION_BYTES);
    return skill_run(&process, &event, env);
}

/* The same for what comes before: its guard may be another one than the loop's. */
__attribute__((noinline)) static i32 start_prepared(const char *const *env)
{
    arena event = arena_of(invocation_memory, INVOCATION_BYTES);
    return skill_start(&event, env);
}

/* Seeds the guard from the kernel's 16 random bytes; its first byte is zero, so that no overrun of
 * text can write it. A copy gets a guard of its own. Not itself protected, since the guard changes
 * under it. */
__attribute__((used, noreturn, no_stack_protector)) static void start(const uz *sp)
{
    const char *const *env = (const char *const *)(sp + sp[0] + 2);
    const word *random = (const word *)os_auxiliary(env, AT_RANDOM);
    if (random)
        __stack_chk_guard = *random << 8;
    i32 status = start_prepared(env);
    if (status == START_COPY) {
        u64 own;
        os_random((u8 *)&own, sizeof own);
        __stack_chk_guard = own << 8;
    }
    if (status <= 0)
        status = start_guarded(env);
    system_call(SYS_exit_group, status, 0, 0);
    __builtin_trap();
}

#endif
