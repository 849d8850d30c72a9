-- Latencies as they were measured.
--
-- wrk 4.1 adds latencies that it has not seen before it reports: for one of 100 ms, where the mean is 2 ms, fifty more of 98,
-- 96 … ms (`stats_correct`, against "coordinated omission"). With slow statements mixed in, most of a report would be such ones.
-- What was added follows from what was measured, so it is taken out again here, and the sum is checked.
local ffi = require("ffi")

-- `stats` of wrk 4.1 (src/stats.h); `data` counts by microseconds.
ffi.cdef("struct wrk_stats { uint64_t count, limit, min, max, data[]; };")

-- Slow statements sleep for as long, in microseconds: whatever took less was a fast one.
local SLOW = 100000

local latencies = {}

-- Counts by microseconds, and the largest of these.
function latencies.measured(latency, summary)
    local stats = ffi.cast("struct wrk_stats **", latency)[0]
    local counts, most, total = {}, tonumber(stats.max), 0
    for us = 0, most do
        counts[us] = tonumber(stats.data[us])
    end
    local each = math.floor(summary.requests / tonumber(os.getenv("HEARTH_BENCH_CONNECTIONS")))
    if each > 0 then
        local expected = math.floor(summary.duration / each)
        -- From the top, where nothing was added: what is left of a count when it is reached was measured.
        for us = most, 2 * expected, -1 do
            if counts[us] > 0 then
                for added = us - expected, expected + 1, -expected do
                    counts[added] = counts[added] - counts[us]
                end
            end
        end
    end
    for us = 0, most do
        total = total + counts[us]
        counts[us] = math.max(counts[us], 0)
    end
    -- wrk counts an answer past its timeout, and keeps no latency for it. Where the mean interval lies between two microseconds it
    -- may round otherwise than here: a few in a thousand change no percentile.
    local off = math.abs(total + summary.errors.timeout - summary.requests)
    assert(off <= summary.requests / 200, "this wrk keeps its latencies otherwise than 4.1")
    return { counts = counts, most = most, total = total }
end

-- How many fast answers there were, and two percentiles of theirs.
--
-- A slow one takes `SLOW` at least, so below it the first fast ones are the first of all. A percentile of `SLOW` or more is a
-- lower bound: slow ones stand between.
function latencies.of_fast(measured, sent_slow)
    local at_least = 0
    for us = SLOW, measured.most do
        at_least = at_least + measured.counts[us]
    end
    -- Of the slow ones sent, some had no answer yet.
    local fast = measured.total - math.min(sent_slow, at_least)
    local function percentile(share)
        local left = math.ceil(fast * share)
        for us = 0, measured.most do
            left = left - measured.counts[us]
            if left <= 0 then
                return us
            end
        end
        return measured.most
    end
    return fast, percentile(0.50), percentile(0.99)
end

return latencies
