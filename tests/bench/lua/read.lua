-- One row by its primary key, a random one each time.
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")

local rows = tonumber(os.getenv("HEARTH_BENCH_ROWS"))
local start = '{"sql":"SELECT abalance FROM pgbench_accounts WHERE aid = $1","params":['
local heads = {}

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

-- A request differs from the next in its number alone, so all before the number is made once for each count of digits.
function init()
    math.randomseed(os.time())
    for digits = 1, #tostring(rows) do
        local number = string.rep("9", digits)
        heads[digits] = wrk.format(nil, nil, nil, start .. number .. "]}"):sub(1, -digits - 3)
    end
end

function request()
    local number = tostring(math.random(rows))
    return heads[#number] .. number .. "]}"
end
