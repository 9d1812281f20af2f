"""Every bound on a queue, body, retry or wait, in one place; shown in docs/reference/limits.md.

What a bound is for stands below it, and goes into the reference from there. The unit is the end of
the name; where it has none, the name says what is counted. Whoever needs a new bound names it here.
"""

BODY_BYTES = 64 * 1024
"""a request body, but for inference"""

INFER_BODY_BYTES = 64 * 1024 * 1024
"""the body of an inference request, as it is sent and after it is decompressed"""

FOLD_BYTES = 16 * 1024
"""the shortest answer that is compressed for a caller who takes that"""

FOLD_IN_PLACE_BYTES = 32 * 1024
"""compressed or decompressed at once; what is longer goes to a thread"""

SLICE_BYTES = 16 * 1024
"""parsed in one go, so that a caller who pipelines does not hold up the others"""

TURN_REQUESTS = 16
"""of one caller that are answered in one go, for the same reason"""

BEGUN = 32
"""requests that a front begins in one turn of its loop; those beyond stand in line for the next"""

BEGUN_LONGEST = 8
"""of these, kept for who has waited longest, whatever its priority"""

ACCEPTED_A_TURN = 8
"""connections that a process accepts in one turn of its loop; the others wait for the next"""

TURNED_AWAY = 64
"""requests that are refused in one turn because their turn would come too late"""

SWITCH_S = 0.0005
"""after this time a front's loop lets another of its threads have the interpreter: one that is to
begin a batch needs it for a moment, and an executor stands still until it has it"""

LEARNT_BYTES = 4096
"""the longest head that a connection remembers, to know it when it comes again"""

RECEIVE_BYTES = 64 * 1024
"""of a body that the application has not yet taken; no more is read until it does"""

ROWS = 1024
"""rows in one inference request"""

PARSE_IN_PLACE_BYTES = 64 * 1024
"""JSON that a front parses itself, and that holds its loop for less than 2 ms, right or wrong; what
is longer goes to its reader process"""

PARSE_UNTIMED_BYTES = 4096
"""JSON that is parsed without looking at the clock, which would cost more than it tells"""

READING_BODIES = 64
"""bodies that one front's reader process holds, the one it reads included"""

READING_BYTES = 512 * 1024 * 1024
"""of memory those may take, their numbers at their longest included"""

READ_SLOTS_BYTES = 64 * 1024 * 1024
"""of memory that is kept for the next bodies while none are read"""

KEPT_BYTES = 64 * 1024 * 1024
"""of freed memory that a process which handles long bodies keeps for the next"""

READ_S = 10.0
"""how long the reading of one body may take; then its process is killed and restarted"""

ENCODE_IN_PLACE_NUMBERS = 16_384
"""numbers of an answer that are written as JSON in one go, less than 2 ms; more in several"""

REQUEST_ID_CHARS = 1024
"""of the `id` a KServe V2 request may have"""

TEXTS = 4096
"""text elements in one input"""

TEXT_BYTES = 1024 * 1024
"""of them together; a front makes them one by one, whoever parsed the body"""

BATCH_BUFFER_BYTES = 128 * 1024 * 1024
"""of memory kept for the next batches of one model in one process"""

HEAD_BYTES = 64 * 1024
"""a request's line and headers together"""

HEAD_S = 10.0
"""how long line and headers may take to arrive"""

LINGER_S = 0.25
"""how long a connection must have been quiet to be closed when a front leaves"""

KEEP_ALIVE_S = 75.0
"""how long a connection may stay open between two requests"""

SEND_S = 10.0
"""how long a caller may leave an answer unread once the buffers are full; then it is cut off"""

SENT_LEAST_BYTES = 64 * 1024
"""of a long answer, read in that time, show that its caller reads on"""

CORK_BYTES = 64 * 1024
"""of an answer in pieces that wait for the end of the loop's turn; more goes out at once"""

REST_BYTES = 1024 * 1024
"""of such an answer that may still come after its caller stopped reading; then it is cut off"""

ANSWER_HEADERS = 256
"""headers of an upstream's answer; its line and headers together are bounded by HEAD_BYTES"""

UPSTREAM_CONNECTIONS = 1024
"""connections of one front to one upstream, as many as requests it may have in hand"""

UPSTREAM_OPENING = 64
"""of these that are being opened at once"""

UPSTREAM_WAITING = 1024
"""requests that wait for a connection to one upstream"""

UPSTREAM_IDLE_S = 4.0
"""how long a connection to an upstream is kept unused; most servers written in Python, and node,
close theirs after 5 seconds"""

UPSTREAM_TLS_IDLE_S = 30.0
"""the same with TLS, which costs more to open; what such servers stand behind waits for a minute"""

CONNECT_S = 5.0
"""how long one address of an upstream may take to accept a connection, TLS included"""

DIAL_S = 10.0
"""how long its name and all its addresses may take together"""

UPSTREAM_ADDRESSES = 8
"""addresses of one upstream that are tried"""

RESOLVED_S = 10.0
"""how long the addresses of a name are remembered"""

DISCARD_BYTES = 64 * 1024 * 1024
"""of a body nobody wants, read and dropped so that the answer before it arrives"""

DISCARD_S = 2.0
"""how long that goes on"""

IN_FLIGHT = 1024
"""requests one front holds at once; one more is answered 503 `overloaded`"""

DEADLINE_S = 30.0
"""how long a request without a timeout of its own may take, its body's arrival included"""

ARRIVING_BYTES = 512 * 1024 * 1024
"""of bodies that arrive at one front, together; beyond it the oldest of them gives way"""

ARRIVING = 512
"""of those whose body has not come whole; the oldest gives way to one more and is answered 503, so
that callers who are slow take no place of those who are not"""

KEYS = 500
"""keys in the key file"""

KEY_MODELS = 32
"""names of LLMs that one key is bound to"""

KEY_FILE_BYTES = 1024 * 1024
"""the key file; a longer one is not ours"""

SETTINGS_BYTES = 256 * 1024
"""the settings file"""

SETTINGS_FAULTS = 20
"""wrong settings told at once; more are counted"""

LOGINS = 32
"""logins in hand at once; anybody may try, and nobody may crowd out the others"""

LOGIN_S = 5.0
"""how long the body of a login may take to arrive"""

SESSION_S = 12 * 3600
"""how long a login of the page lasts"""

LOG_SITE_LINES = 10
"""lines that one place in the code logs within LOG_WINDOW_S; more are counted"""

LOG_WINDOW_S = 10.0
"""after this time such a place may log again, and the count is told"""

LOG_SITES = 512
"""places in the code counted at once; the oldest gives way"""

LOG_CHARS = 8192
"""one message, field or traceback in the log; the rest is cut"""

LOG_FIELDS = 64
"""fields of one line, and elements of one field"""

LOG_SECRETS = 1000
"""secrets the log is told to hide; registering one more is a bug"""

SERIES_PER_PROCESS = 8192
"""label combinations one process may record; more are counted as dropped"""

LINK_MESSAGE_BYTES = 128 * 1024
"""one packet between two processes of a server"""

LINK_BULK_BYTES = 4 * 1024 * 1024
"""one message between owner and front; what fits no packet goes by shared memory"""

LINK_BACKLOG = 256
"""messages that wait for a process that does not read; then it counts as hung"""

PARKED_CONNECTIONS = 1024
"""connections the owner keeps while no front is ready; one more is answered 503"""

PARK_S = 5.0
"""how long such a connection waits before it is answered 503"""

PAGE_STREAMS = 64
"""live pages open at once"""

PAGE_TICK_S = 1.0
"""how often a live page gets new numbers"""

QUERY_PARAMETERS = 32
"""parameters in one query string"""

WHO_CHARS = 120
"""of who asked for something, as log and journal keep it"""

RELAY_CHUNK_BYTES = 64 * 1024
"""one piece of an answer relayed from the owner"""

RELAY_S = 5.0
"""how long a front waits for the next piece of the owner's answer"""

RESTART_FIRST_S = 0.1
"""wait before the second restart of a process that keeps dying; doubles each time"""

RESTART_MOST_S = 5.0
"""the longest such wait"""

RESTART_STEADY_S = 10.0
"""a process that lived this long is restarted at once"""

PING_S = 1.0
"""how often the owner asks a front whether its loop turns"""

MISSED_PINGS_NOT_READY = 2
"""unanswered ones in a row, after which the doorkeeper answers in the place of a front"""

TURN_S = 3.0
"""how long a change of the Plan waits for those before it; then it is refused"""

OBEY_S = 1.0
"""how long the owner waits for fronts to take a plan; a hung one is replaced, by the new plan"""

MISSED_PINGS_HUNG = 5
"""unanswered ones in a row, after which a front is killed and restarted"""

LEAVE_S = 3.0
"""how long a front that leaves alone may finish; shorter than PARK_S, its callers are waiting"""

EXIT_S = 1.0
"""how long a front may take to exit after its link ended"""

PROBES = 64
"""connections beyond PARKED_CONNECTIONS that are looked at, for health must be answered"""

ACCEPT_AGAIN_S = 0.1
"""pause before accepting again after the system had no descriptor left, or half a line arrived"""

START_S = 60.0
"""a front that is not ready after so long is killed and restarted"""

DRAIN_LEAST_S = 1.0
"""the shortest drain time: the unfinished must be answered within it"""

FLUSH_S = 0.3
"""how long a last answer may take to be read at the end of a drain"""

OWNER_GONE_S = 5.0
"""how long a front outlives its owner, whatever the drain time; what is unfinished gets 503"""

FRONTS = 8
"""the most fronts that are started without being asked for"""

CONNECTION_BACKLOG = 2048
"""connections the kernel holds until a front accepts them"""

JOURNAL_BATCH = 200
"""entries the journal makes durable with one sync"""

JOURNAL_BACKLOG = 10_000
"""entries that wait for the disk; one more is refused"""

JOURNAL_ENTRY_BYTES = 1024 * 1024
"""one entry of the journal"""

JOURNAL_SNAPSHOT_ENTRIES = 2000
"""entries after which the journal keeps a snapshot; a change of the Plan counts as ten"""

JOURNAL_SNAPSHOTS = 3
"""snapshots kept; where the newest is damaged the one before it serves"""

JOURNAL_BUSY_S = 2.0
"""how long the journal waits for a foreign program that holds its file locked"""

JOURNAL_COMPACT_ENTRIES = 2000
"""entries after which a step of compaction ends, with the knob and day it is at; others are written
between two steps"""

JOURNAL_PROBES = 20_000
"""places that are tried in the search for what comes after a damaged part of the journal"""

JOURNAL_IMPORT_ENTRIES = 2000
"""entries that an import writes at once"""

JOURNAL_IMPORT_BYTES = 8 * 1024 * 1024
"""of bodies that an import writes at once"""

JOURNAL_READ_ENTRIES = 1000
"""entries of the journal that are read in one go; a writer's log cannot be emptied meanwhile"""

JOURNAL_READ_BYTES = 8 * 1024 * 1024
"""of bodies that are read in one go"""

JOURNAL_PAGE_ENTRIES = 1000
"""entries of the journal, or versions of the Plan, in one answer"""

ADJUSTMENTS_KEPT_S = 30 * 86400
"""how long single adjustments are remembered; then a summary a day and knob stays"""

ADJUST_EVERY_S = 10.0
"""the shortest time between two adjustments of one knob"""

KNOBS = 1500
"""knobs of all workloads together"""

KNOB_ADDRESS_CHARS = 100
"""a workload's and a knob's name together; all settings must fit in one message to a front"""

REASON_CHARS = 1000
"""the reason given with a change"""

SCORE_AFTER_S = 60.0
"""how long after a change its predictions are compared with what was measured"""

SCORES_WAITING = 100
"""changes whose predictions wait for that; of one more nothing can be told"""

COMPACT_ANSWER_S = 3.0
"""how long a compaction is waited for; a longer one goes on, and its caller is told so"""

COMPACT_EVERY_S = 86400.0
"""how often a running server compacts its journal"""

LIMITER_FLOOR = 4
"""the least an adaptive concurrency limit falls to: on two cores two at work and two that follow"""

LIMITER_FIRST = 16
"""where an adaptive concurrency limit begins"""

LIMITER_MOST = IN_FLIGHT
"""the most an adaptive concurrency limit rises to"""

LIMITER_STEP_S = 0.1
"""the shortest time between two steps of an adaptive concurrency limit"""

LIMITER_STEP_LEAVES = 10
"""the fewest requests that such a step is judged by"""

BREAKER_WINDOW_S = 10.0
"""how far back a circuit breaker counts calls and failures"""

BREAKER_LEAST_CALLS = 10
"""the fewest calls within it that a circuit breaker judges by"""

BREAKER_FAILURE_RATIO = 0.5
"""the share of failed calls at which a circuit breaker opens"""

BREAKER_OPEN_FIRST_S = 1.0
"""how long a circuit breaker stays open the first time; doubles each time"""

BREAKER_OPEN_MOST_S = 60.0
"""the longest such time"""

BREAKER_PROBES = 2
"""calls that a half-open circuit breaker lets go, and that must succeed before it closes"""

BREAKER_PROBE_S = DEADLINE_S
"""after this time without an outcome such calls are followed by others"""

BREAKER_WHY_CHARS = 200
"""of the reason a circuit breaker gives for being open"""

RETRY_SHARE = 0.2
"""retries for each recent request"""

RETRY_LEAST_PER_S = 1.0
"""retries besides, however few the requests"""

RETRY_WINDOW_S = 10.0
"""how far back both are counted"""

BACKOFF_FIRST_S = 0.1
"""the longest wait before the first retry; doubles each time"""

BACKOFF_MOST_S = 10.0
"""the longest wait before any retry"""

SINGLE_FLIGHTS = 1024
"""different computations in flight at once, each for all who ask for the same"""

QUEUE_REQUESTS = 10_000
"""requests that wait for one model in one process"""

QUEUE_BYTES = 128 * 1024 * 1024
"""of the bodies of requests that wait for one model in one process"""

BATCH_ROWS = 64
"""rows of a batch, unless the Plan says otherwise"""

SHAPES = 64
"""shapes of requests to one model whose latency is remembered"""

MODELS = 100
"""models of one server"""

MODEL_NAME_CHARS = 64
"""the name of a model"""

MODEL_SOURCE_BYTES = 1024
"""of path, or callable and folder, of one model; all must fit in one message to a front"""

MODEL_TENSORS = 64
"""inputs, and outputs, of a model written in Python"""

MODEL_MEMORY_BYTES = 1024 * 1024 * 1024
"""of one batch, and of its answer, that a front and a model process share"""

MODEL_START_S = 50.0
"""how long a model process may take to load; shorter than START_S, for the front waits for it"""

MODEL_BACK_S = 2.0
"""how long a batch waits for a model process that is being started again"""

EXECUTORS = 16
"""batches of one model that run at once in one process, whatever the Plan says"""

WARM_S = 0.5
"""how long a model is tried out before it serves; the run in which this is reached is the last"""

TRACE_REQUESTS = 20_000_000
"""requests in one trace; each takes up to 160 bytes of memory while it is made, and then 90"""

TRACE_BYTES = 1024 * 1024 * 1024
"""of a trace file that are read, unpacked"""

TRACE_LINE_BYTES = 64 * 1024
"""one line of a trace file"""

TRACE_NUMBER = 10_000_000_000
"""the largest number in a trace; as a moment in seconds it lies three centuries ahead"""

TRACE_SHAPES = 64
"""different shapes of requests in a trace file"""

TRACE_CV = 1000
"""the largest coefficient of variation of the time between requests, in a trace file"""

LOAD_REQUESTS = 5_000_000
"""requests of one load test; each takes about 100 bytes of memory, and 160 more while it is made"""

LOAD_CONNECTIONS = 10_000
"""connections of one load test"""

LOAD_BODIES_BYTES = 256 * 1024 * 1024
"""of all the different requests of a load test together, which are made before it begins"""

LOAD_ANSWER_BYTES = 1024 * 1024
"""of an answer that is looked at before a load test begins; what it counts later may be longer"""

LOAD_GIVE_UP_S = 5.0
"""after so long without an answer, and no connection to be had, a load test ends early"""

SSE_EVENT_BYTES = 4 * 1024 * 1024
"""one event in the stream of a provider, such as the whole answer at the end of `/v1/responses`"""

LLM_MODEL_CHARS = 200
"""the name of a model that an LLM call asks for"""

PROVIDERS = 32
"""providers of LLM calls of one server"""

PROVIDER_NAME_CHARS = 32
"""the name of a provider"""

PROVIDER_URL_CHARS = 500
"""the address of a provider"""

PROVIDER_MODELS = 200
"""models that one provider is known to have; a name with a `*` counts as one"""

ROUTES = 256
"""routes of LLM calls of one server"""

PRICES = 512
"""prices of LLM models that the settings may name; a name with a `*` counts as one"""

PRICE_USD = 1e6
"""the highest price of a million tokens"""

ROUTE_TARGETS = 16
"""targets, and fallbacks, of one route"""

LLM_RETRIES = 10
"""retries of one LLM call, whatever its route says"""

LLM_DEADLINE_S = 600.0
"""how long an LLM call without a timeout of its own may take, as its SDKs have it"""

LLM_ARRIVES_S = 60.0
"""how long the body of an LLM call may take to arrive, whatever its timeout"""

LLM_BODY_BYTES = 64 * 1024 * 1024
"""the body of an LLM call"""

LLM_SHORT_BYTES = 64 * 1024
"""of a body or an answer of an LLM call that its number alone bounds (LLM_IN_FLIGHT)"""

LLM_LONG_BYTES = 512 * 1024 * 1024
"""of longer ones that one front holds together; one more is answered 503 `overloaded`, in
Anthropic's dialect 529"""

SIMULATED_TOKENS = 4096
"""tokens of one answer of the simulated provider, whatever is asked of it"""

SIMULATED_CHOICES = 16
"""choices in one such answer"""

SIMULATED_CALLS = 8
"""tools that are called in one such choice"""

SIMULATED_ECHO_CHARS = 200
"""of what was asked that such an answer repeats"""

SIMULATED_INPUTS = 2048
"""texts in one request for simulated embeddings, as many as OpenAI takes"""

SIMULATED_INPUT_TOKENS = 8192
"""tokens of one of them"""

SIMULATED_DIMENSIONS = 3072
"""numbers in a simulated embedding, as many as OpenAI's largest has"""

SIMULATED_ITEMS = 100
"""elements of a list that the simulated provider makes up, and texts that it moderates at once"""

SIMULATED_DEPTH = 16
"""how deep what it makes up of a schema nests; from there on it is as short as the schema permits,
and at the double it ends"""

SIMULATED_NODES = 2000
"""values in it, in the same way"""

SIMULATED_TURN_PIECES = 64
"""pieces of one simulated answer that are told in one turn of the loop"""

ROUTE_TIERS = 1 + ROUTE_TARGETS
"""tiers of one route: its targets, then each of its fallbacks"""

LLM_MODELS_APART = 256
"""models that come to targets by a `*`, or as they are asked for, of which is known how each fares;
beyond it the least recently used is forgotten"""

LLM_NEWS_LEAST_S = 0.5
"""how long a target must be left alone that a front tells the others so"""

LLM_NEWS_PER_S = 20
"""such news of one front; what goes beyond the others find out themselves"""

ROUTES_NAMED = 100
"""names of routes among which the nearest to an unknown one is looked for"""

RETRY_AFTER_MOST_S = 3600.0
"""how long a provider may ask not to be asked again; what it says beyond that is not believed"""

HEDGE_SHARE = 0.05
"""of the calls of a route that go to a second target, because the first is slow to begin"""

HEDGE_LEAST_PER_S = 0.1
"""such calls besides, however few the calls"""

HEDGE_LEARN_FIRST = 20
"""answers by which it is first known how long 95 of 100 take to begin"""

HEDGE_LEARN = 200
"""answers after which that is found anew"""

MESSAGES_ANSWER_TOKENS = 16_384
"""the answer of a provider of Anthropic's dialect, which wants a bound, to a caller of OpenAI's who
gave none; every model since 2025 takes it, and thinking counts too"""

TRANSLATED_CALLS = 128
"""tool calls in one streamed answer that is translated"""

ERROR_MESSAGE_CHARS = 2000
"""of what a provider says about an error in a form that is not known"""

LEARNT_HEADS = 1024
"""heads of requests to one provider that are remembered; beyond it all are forgotten"""

LLM_SERIES = 64
"""pairs of route and provider that are measured apart; what goes beyond is measured together"""

LLM_CHOICES = 128
"""of one streamed answer, whose ends are told apart"""

LLM_IN_FLIGHT = 768
"""LLM calls one front holds at once: three quarters of IN_FLIGHT, for they last"""

LLM_WHOLE_BYTES = 64 * 1024
"""of an answer that is held until it is whole; a longer one is passed on as it comes"""

LLM_HELD_BYTES = 256 * 1024
"""of a stream that may come before its first content; then it counts as begun"""

LLM_BEGINS_S = 5.0
"""how long a stream waits for its first content before it begins without, unless its route says
otherwise"""

LLM_TRANSLATED_BYTES = 32 * 1024 * 1024
"""of an answer that is translated as a whole, pictures in it included"""

LLM_ERROR_BYTES = 64 * 1024
"""of a provider's error; what is longer is cut"""

LLM_TOKENS_TOLD = 1_000_000_000
"""of one call, by its provider; who tells of more is not believed, and has told nothing"""

LLM_TIMELINES = 500
"""calls whose timelines one front remembers"""

LLM_CALLS_TOLD = 100
"""of these that are told at once"""

TRACES_SLOWEST = 10
"""inference requests whose timelines one front keeps of each model for being the slowest of
TRACES_SLOT_S"""

TRACES_SLOT_S = 300.0
"""how long requests are compared with each other for that"""

TRACES_SPAN_S = 3600.0
"""for how long the slowest are told"""

TRACES_RECENT = 32
"""of each model in one front: timelines kept for being sampled; as many for being late, and for
having failed"""

TRACES_ASKED_PER_S = 100
"""of each model in one front: kept because their callers' traces are recorded"""

TRACES_BAD_PER_S = 10
"""of each model in one front: kept for being late or having failed"""

TRACES_TURNED_AWAY_PER_S = 10
"""of each model in one front: kept though they were turned away before they were read; the last
TRACES_RECENT of them"""

TRACES_TOLD = 100
"""timelines that are told at once"""

SPANS_TOLD = 512
"""that a front has for the owner; what comes beyond is dropped, and counted"""

SPAN_PATH_CHARS = 256
"""of an address that are said of a span"""

SPANS_TELL_S = 0.5
"""how long a front waits for more of them"""

SPANS_HELD = 8192
"""that the owner has for an OTLP receiver; what comes beyond is dropped, and counted"""

SPANS_SENT = 256
"""in one request"""

METRICS_TOLD_S = 15.0
"""after so long an OTLP receiver is told all metrics again"""

METRICS_LAST_S = 1.0
"""how long the end waits for it to take the last"""

SPANS_GROUP_S = 1.0
"""how long it waits for more of them"""

SPANS_SEND_S = 10.0
"""for one request to be answered"""

SPANS_ANSWER_BYTES = 4096
"""of an answer that are read"""

SPANS_BACKOFF_FIRST_S = 1.0
"""up to so long before the second try, then twice that, and so on"""

SPANS_BACKOFF_MOST_S = 30.0
"""up to so long at most"""

SPANS_GIVE_UP_S = 120.0
"""after so long a request is not sent again; its spans are dropped, and counted"""

SPANS_LAST_S = 2.0
"""for what is held when the server stops"""

SPANS_HEADERS = 16
"""that a receiver may want to see"""

LLM_READ_IN_PLACE_BYTES = 512 * 1024
"""of a body that a front reads, or changes a member of, itself: less than 2 ms, whatever is in it;
longer ones go to its scribe process"""

LLM_SAY_IN_PLACE_BYTES = 128 * 1024
"""of a body, or an answer, that a front says in the other dialect itself, for the same reason"""

LLM_BESIDE = 64
"""long bodies that one front's scribe process holds, the one it works on included"""

LLM_BESIDE_BYTES = 512 * 1024 * 1024
"""of memory those may take, with what is written of them"""

LLM_BESIDE_S = 10.0
"""how long the work on one body may take; then the process is killed and restarted"""

SAID_TEXT_BYTES = 64 * 1024
"""of a call's question, and of its answer, that is kept where the settings ask for it; longer ones
are cut"""

SAID_READ_BYTES = 256 * 1024
"""of a question, and of an answer that came whole, that is looked at to keep so much of it"""

SAID_STREAM_BYTES = 1024 * 1024
"""of a streamed answer, for the same: around each word in it there are two hundred bytes"""

SAID_CUT_CHARS = 256
"""before a place where a text was cut that are not kept either: what is hidden may be cut in two"""

SAID_DEPTH = 64
"""of a body that is kept; what lies deeper is left out"""

SAID_HELD_BYTES = 64 * 1024 * 1024
"""of what was said that one front holds until it is written; beyond it calls are not kept"""

SAID_BATCH_BYTES = 1024 * 1024
"""of what was said that is written together, or what comes in SAID_WAIT_S"""

SAID_WAIT_S = 0.25
"""how long what was said waits for more of it"""

SAID_JOBS = 64
"""such batches that a front's keeper process holds"""

SAID_JOB_S = 30.0
"""how long one batch may take; then the process is killed and restarted"""

SAID_CLOSE_S = 2.0
"""what a front that ends waits for the last of it to be written"""

SAID_BYTES = 512 * 1024 * 1024
"""of `said.db`; beyond it the oldest calls go"""

SAID_CALLS = 100_000
"""in `said.db`; beyond it the oldest go"""

SAID_TOLD = 100
"""calls of it that are listed at once"""

SAID_DAYS = 3650
"""the longest that what was said is kept"""

SAID_PATTERNS = 64
"""regular expressions of what is hidden, beside those that are always there"""

SAID_PATTERN_CHARS = 500
"""of one of them"""

SAID_BUSY_S = 5.0
"""how long one waits for another that writes `said.db`"""

SAID_EXPIRE_S = 60.0
"""between two looks for what has been kept long enough"""

HISTORY_SERIES = 6000
"""series of one server that are remembered; a hundred models in use have 5000"""

HISTORY_SKETCHES = 512
"""of them, those of a distribution"""

HISTORY_SECONDS = 3600
"""steps of one second that are remembered in memory"""

HISTORY_MINUTES = 1440
"""steps of one minute that are remembered in memory"""

HISTORY_HOURS = 720
"""steps of one hour that are remembered in memory"""

HISTORY_SKETCH_S = 10
"""in seconds, the shortest stretch of time whose distributions are remembered whole"""

HISTORY_SKETCH_HOURS = 72
"""distributions of one hour that are remembered in memory, of each series"""

HISTORY_PACKED_BYTES = 64 * 1024 * 1024
"""of remembered distributions; beyond it the oldest go"""

METRICS_MINUTES_KEPT_S = 3 * 86400
"""how long single minutes stay in `metrics.db`"""

METRICS_HOURS_KEPT_S = 90 * 86400
"""how long single hours stay in `metrics.db`"""

METRICS_DAYS_KEPT_S = 2 * 365 * 86400
"""how long single days stay in `metrics.db`"""

METRICS_BYTES = 256 * 1024 * 1024
"""of `metrics.db`; beyond it the oldest minutes go"""

METRICS_BACKLOG = 60
"""minutes that wait for `metrics.db` where it cannot be written; then the oldest are lost"""

METRICS_BUSY_S = 2.0
"""how long a write waits for a foreign program that holds `metrics.db` locked"""

GPUS = 64
"""GPUs of one machine that are watched"""

HISTORY_ASKED = 8
"""metrics in one question about the past"""

HISTORY_STEPS = 5000
"""steps of one series in one answer about the past; of more they are made longer"""
ALERTS = 500
"""alerts that are open, or ended not long ago; beyond that the first that ended is forgotten"""

ALERTS_RESOLVED_S = 3600.0
"""how long an alert that ended is shown"""

ALERTS_DEAD = 50
"""of the notices that could not be delivered, the newest, which are shown"""

ALERT_OWED = 500
"""notices that wait for one channel; of one more the oldest is given up"""

ALERT_GROUP = 100
"""notices that are told in one message"""

ALERT_LINES = 20
"""of these that a message to people tells one by one; the others are counted"""

ALERT_GROUP_S = 2.0
"""how long a notice waits for others to be told along with it"""

ALERT_CHANNELS = 16
"""channels of one server"""

ALERT_TEXT_CHARS = 500
"""of a cause, a value or a remedy of an alert"""

ALERT_SEND_S = 10.0
"""how long a channel may take to take a message"""

ALERT_BACKOFF_FIRST_S = 1.0
"""the longest wait before a message is sent for the second time; doubles each time"""

ALERT_BACKOFF_MOST_S = 60.0
"""the longest such wait"""

ALERT_GIVE_UP_S = 86400.0
"""how old a notice may be that is still sent again"""

ALERT_REFUSALS = 5
"""times a channel may refuse a message for good, say with status 404, until it is given up"""

SILENCES = 100
"""silences in force"""

SILENCE_MOST_S = 30 * 86400.0
"""the longest silence"""

ALERT_BAD_LEAST = 5
"""bad events in the longer window, below which no burn rate makes an alert"""

ALERT_BAD_SHARE = 0.72
"""of bad events at which the fastest burn rate makes an alert, where the objective is so low that
14.4 times its budget would be more"""

ALERT_TICKS_OF_WINDOW = 300
"""looks at a burn rate within its shorter window"""

ALERT_REQUESTS_LEAST = 20
"""requests in the last minute, below which no share or quantile of them makes an alert"""

ALERT_LABELS_LEAST = 50
"""labels in the last hour, and in the day before, below which accuracy makes no alert"""

ALERT_LEAVE = 0.9
"""of the bound at which an alert begins, where it ends: between the two nothing changes"""

ALERT_CLEAR_S = 60.0
"""how long a value must stay on the right side of that until the alert is over"""

ALERT_QUEUE_LEAST = 10
"""requests that must wait for a model until its queue can be an alert"""

ALERT_DISK_ENOUGH_BYTES = 10 * 1024**3
"""free space with which no disk is nearly full, whatever share of it that is"""

ALERT_AGAIN_S = 10.0
"""after the journal has refused an alert, until it is asked again"""

WATCH_TICK_S = 1.0
"""how often the owner looks at what its processes count"""

ALERTS_ON_PAGE = 20
"""open alerts that a live page is told; the others are counted"""

BASELINE_STEPS = 240
"""that a baseline keeps of each series, and `paceline report --against` compares with"""

BASELINES = 256
"""in one state directory"""

BASELINE_NAME_CHARS = 64
"""the name of a baseline"""

BASELINE_BYTES = 64 * 1024
"""of the file of one"""

PROFILE_S = 10.0
"""how long a profile takes where nobody says"""

PROFILE_MOST_S = 120.0
"""the longest profile"""

PROFILE_UNASKED_S = 5.0
"""a profile that nobody asks after for so long ends"""

PROFILE_ASKED_S = 2.0
"""how long whoever asks after a profile waits for its end, until told that it still runs"""

PROFILE_LATE_S = 30.0
"""how much longer than its time the process of a model may take to tell what it has found"""

PROFILE_KEPT_S = 60.0
"""how long a profile is kept after its end"""

PROFILES_KEPT = 4
"""profiles that are kept at once, after their end"""

PROFILE_HZ = 97.0
"""looks at the stacks in a second: not a round number, or it could keep step with a timer"""

PROFILE_STACKS = 4000
"""different stacks in one profile; others are counted together"""

PROFILE_DEPTH = 96
"""frames of a stack, from the outermost; what is deeper is counted together"""

PROFILE_FRAMES = 3000
"""different functions in one profile; others are counted together"""

PROFILE_THREADS = 100
"""threads in one profile, native ones included"""

PROFILE_NAME_CHARS = 120
"""of the name of a function or a thread in a profile"""

PROFILE_ROWS = 30
"""classes of objects, lines of code or operators that a profile tells, the largest of them"""

PROFILE_CALLS = 20_000
"""calls of operators that a profile of a model looks at; then it has seen enough"""

PROFILE_TRACE_BYTES = 256 * 1024 * 1024
"""the file that onnxruntime writes them down in, which is removed afterwards"""

PROFILE_NODES = 100
"""operators of a model's graph that a profile tells, those that took longest"""

PROFILE_LOAD_S = 120.0
"""how long a profile of a model may take beyond its time, to load it and to read its trace"""

PROFILE_LENGTH = 16
"""of open dimensions of a model's inputs, but the first, where nobody says"""

PROFILE_MOST_LENGTH = 65_536
"""the same, the most that may be said"""

PROFILE_BOXES = 4000
"""boxes of a flame graph that are drawn, the widest"""
FEEDBACK_LABELS = 500
"""labels in one call"""

FEEDBACK_ANSWERS = 1_000_000
"""that one front may be told to remember: some 300 MB"""

FEEDBACK_ANSWERS_LEAST = 256
"""answers of each model that a front remembers, however many models share its memory"""

FEEDBACK_ROWS = 64
"""rows of an answer that is remembered, and labels of it"""

FEEDBACK_CLASSES = 4096
"""scores of a row of which the largest is looked for"""

FEEDBACK_TEXT_CHARS = 200
"""of a class that is a text; the rest is cut"""

FEEDBACK_MOST = 10**15
"""how large a label may be, if it is a number"""

FEEDBACK_PER_S = 200
"""answers of one model that a front begins to remember in a second"""

FEEDBACK_BURST = 1000
"""answers of one model that it remembers at once, after a pause"""

FEEDBACK_LATE_S = 6 * 3600.0
"""how long half of the answers that are remembered are kept at least"""

DRIFT_FEATURES = 128
"""numbers of a row that are compared with earlier ones"""

DRIFT_SHORT = 64
"""numbers of a tensor, up to which each is compared; longer ones are summed up"""

DRIFT_SUMMED = 16384
"""numbers of a tensor that are looked at to sum it up"""

DRIFT_TEXT_CHARS = 64
"""of the name of a class whose share is compared; the rest is cut"""

DRIFT_TOLD = 64
"""rows of a model that a front tells at once, before its second is over"""

DRIFT_ROWS_S = 10_000.0
"""rows of a model that a front may be told to draw in a second"""

DRIFT_REFERENCE = 1024
"""rows that later ones are compared with"""

DRIFT_WINDOW = 512
"""rows that are compared with them: the last"""

DRIFT_LEAST = 256
"""rows of those, below which nothing is said"""

DRIFT_CLASSES = 64
"""classes whose shares are compared; the rarer ones count as one"""

DRIFT_LOOK_S = 60.0
"""how often the metrics of drift are computed"""

DRIFT_FALSE = 0.001
"""how likely a comparison finds any difference where there is none"""

DRIFT_DISTANCE = 0.1
"""a smaller difference of two distributions is none that is told, however sure"""

DRIFT_SHARES = 0.2
"""the same of the shares of a class, as Cohen's h"""

DRIFT_TOLD_MOST = 5
"""features that a report names; the others are counted"""

DRIFT_BYTES = 1024 * 1024
"""of the file of one model's reference"""
