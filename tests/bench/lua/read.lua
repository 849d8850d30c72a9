-- One row by its primary key, a random one each time.
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")
local keyed = dofile(os.getenv("HEARTH_BENCH_LUA") .. "/keyed.lua")

function init()
    math.randomseed(os.time())
    request = keyed('{"sql":"SELECT abalance FROM pgbench_accounts WHERE aid = $1","params":[', "]}")
end
