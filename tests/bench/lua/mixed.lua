-- One row by its primary key, and one time in a hundred a statement that sleeps for 100 ms in the database: another statement,
-- or the same one with another parameter (HEARTH_BENCH_SLOW is `other` or `same`).
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")
local keyed = dofile(os.getenv("HEARTH_BENCH_LUA") .. "/keyed.lua")

local fast_one, slow_one

function init()
    math.randomseed(os.time())
    if os.getenv("HEARTH_BENCH_SLOW") == "same" then
        local start = '{"sql":"SELECT abalance, pg_sleep($2) FROM pgbench_accounts WHERE aid = $1","params":['
        fast_one, slow_one = keyed(start, ",0]}"), keyed(start, ",0.1]}")
    else
        local sleep = wrk.format(nil, nil, nil, '{"sql":"SELECT pg_sleep(0.1)"}')
        fast_one = keyed('{"sql":"SELECT abalance FROM pgbench_accounts WHERE aid = $1","params":[', "]}")
        slow_one = function() return sleep end
    end
end

function request()
    if math.random(100) == 1 then
        slow = slow + 1
        return slow_one()
    end
    return fast_one()
end
