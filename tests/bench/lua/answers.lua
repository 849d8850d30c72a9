-- What every script shares: the request's headers, the check of the answers, and the report as one line of JSON.
--
-- wrk itself counts statuses of 400 and more. During the warm-up (HEARTH_BENCH_EXPECT is set) each answer is looked at
-- as well: the status must be 200 and the body hold that text. Not while measuring: it would cost the generator time.
local latencies = dofile(os.getenv("HEARTH_BENCH_LUA") .. "/latencies.lua")

wrong = 0
-- Slow statements sent, where a script mixes some in.
slow = 0

local key = os.getenv("HEARTH_BENCH_KEY")
if key then
    wrk.headers["Authorization"] = "Bearer " .. key
end

local expected = os.getenv("HEARTH_BENCH_EXPECT")
if expected then
    function response(status, _, body)
        if status ~= 200 or not body:find(expected, 1, true) then
            wrong = wrong + 1
        end
    end
end

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function done(summary, latency)
    local seen_wrong, sent_slow = 0, 0
    for _, thread in ipairs(threads) do
        seen_wrong = seen_wrong + thread:get("wrong")
        sent_slow = sent_slow + thread:get("slow")
    end
    local errors = summary.errors
    local measured = latencies.measured(latency, summary)
    local fast, p50, p99 = latencies.of_fast(measured, sent_slow)
    io.write(string.format(
        '{"requests": %d, "fast": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, ',
        summary.requests, fast, summary.duration / 1e6, p50 / 1e3, p99 / 1e3))
    io.write(string.format(
        '"errors": {"wrong": %d, "status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\n',
        seen_wrong, errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
