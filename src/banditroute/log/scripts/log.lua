-- One log in Redis: every change of it is one run of this script, so it is done wholly or not at all.
-- KEYS: all keys of the log, in the order of redis_script.KEYS; for feedback the first three, and the decision's record.
-- ARGV: command, the time in microseconds (empty: the server's), and what the command needs.
-- Writes depend on no random or unsorted command, and are replicated by their effects.

local META, EVENTS, ORDINALS, JOURNAL, LINES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CHECKPOINTS, BODIES, LEASES, CURSORS, CHECKS, REPLICAS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local GONE = 'NOLOG the log is gone from this server'

-- Integers up to 2^53 are exact in a double, and written without an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

local function clock()
  if ARGV[2] ~= '' then return tonumber(ARGV[2]) end
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1e6 + tonumber(now[2])
end

-- The end of the log and its time, which never falls; nothing where there is no log.
local function tip()
  local held = redis.call('HMGET', META, 'position', 'chain', 'time_us', 'config', 'window', 'window_used', 'fold')
  if not held[1] then return nil end
  local now = math.max(tonumber(held[3]), clock())
  return tonumber(held[1]), held[2], now, held
end

-- What the log alone knows, put where the body leaves room for it.
local function filled(text, position, now, ordinal)
  return (string.gsub(text, '[\1\2\3]', { ['\1'] = position, ['\2'] = now, ['\3'] = ordinal }))
end

local function note(epoch, position, index, line)
  local key = string.format('%010.0f:%016.0f:%010.0f', epoch, position, index)
  if redis.call('HSETNX', LINES, key, line) == 0 then return 0 end
  redis.call('ZADD', JOURNAL, 0, key)
  return 1
end

-- Gives the chain value; what else of the log is to be kept comes as fields and values.
local function push(at, chain, time, kind, version, body, ...)
  chain = string.sub(redis.sha1hex(chain .. '\n' .. at .. '\n' .. time .. '\n' .. kind .. '\n' .. body), 1, 32)
  redis.call('XADD', EVENTS, at .. '-0', 't', time, 'k', kind, 'v', version, 'b', body, 'c', chain)
  redis.call('HSET', META, 'position', at, 'chain', chain, 'time_us', time, ...)
  return chain
end

-- kind, body, journalled (0 or 1), the position of the configuration that this one replaces (or empty)
local function append()
  local position, chain, now, held = tip()
  if not position then return redis.error_reply(GONE) end
  local kind, body, journalled, replaces = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  if replaces ~= '' and replaces ~= held[4] then return { 'replaced', held[4] } end
  position = position + 1
  local at, time = digits(position), digits(now)
  if kind == 'config' then
    chain = push(at, chain, time, kind, held[7], body, 'config', at)
  else
    chain = push(at, chain, time, kind, held[7], body)
  end
  if journalled == '1' then
    note(tonumber(redis.call('HGET', META, 'epoch')), position, 0, time .. ' ' .. kind .. ' ' .. body)
  end
  return { 'ok', at, time, chain, held[7] }
end

-- A record may be gone although its decision could still be answered: where the window was made longer
-- since. `window` is the shortest one that records alive now may have been written with, `window_used`
-- when that was last so.
local function forgotten(held, now, made, skew)
  local shortest, used = tonumber(held[5]), tonumber(held[6])
  return shortest and made <= used and now > made + shortest + skew
end

-- What is to be kept of the window.
local function windows(held, now, time, window)
  local shortest, used = tonumber(held[5]), tonumber(held[6])
  if shortest and window > shortest and now <= used + window then return end
  return 'window', digits(window), 'window_used', time
end

-- category, the record as known (empty: none), what the event's body says behind the record (empty: no event is due),
-- the record, when it was observed (empty: now), when the decision was made and its id expires, skew; in microseconds
local function feedback()
  local position, chain, now, held = tip()
  if not position then return redis.error_reply(GONE) end
  local RECORD = KEYS[4]
  local category, known, rest, record = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local observed, made, expire, skew = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  if now > expire then
    redis.call('HSET', META, 'time_us', digits(now)) -- a clock that jumps back does not open the window again
    return { 'over' }
  end
  local found = redis.call('GET', RECORD)
  local left = 0
  if found then left = redis.call('PTTL', RECORD) end
  if (found or '') ~= known then
    if not found then return { 'gone' } end
    redis.call('PEXPIRE', RECORD, left) -- a write: what waits for replicas or the disk waits for this record
    return { 'known', found }
  end
  if not found and forgotten(held, now, made, skew) then return { 'forgotten' } end
  if observed ~= '' and tonumber(observed) > now then return { 'ahead' } end
  local window = expire - made
  local at, time, ordinal = digits(position), digits(now), ''
  if rest ~= '' then
    at = digits(position + 1)
    if not found then ordinal = redis.call('HINCRBY', ORDINALS, category, 1) end
  end
  record = filled(record, at, time, ordinal)
  if rest ~= '' then
    push(at, chain, time, 'feedback', held[7], '{"after":' .. record .. ',' .. rest, windows(held, now, time, window))
  else
    redis.call('HSET', META, 'time_us', held[3], windows(held, now, time, window))
  end
  local lives = math.max(left, math.ceil((expire + skew - now) / 1000))
  redis.call('SET', RECORD, record, 'PX', digits(lives))
  return tonumber(at) -- by far the most frequent answer: read at once
end

-- epoch, then for each line: position, index, text
local function notes()
  local fresh = {}
  for i = 4, #ARGV, 3 do
    fresh[#fresh + 1] = note(tonumber(ARGV[3]), tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2])
  end
  return fresh
end

local function chain_at(position)
  local found = redis.call('XRANGE', EVENTS, position .. '-0', position .. '-0')[1]
  if not found then return nil end
  for i = 1, #found[2], 2 do
    if found[2][i] == 'c' then return found[2][i + 1] end
  end
end

-- Positions and fold versions of the checkpoints that lie on the log, newest first; the others are removed.
local function on_log()
  local kept = {}
  local all = redis.call('HGETALL', CHECKPOINTS)
  for i = 1, #all, 2 do
    local head = cjson.decode(all[i + 1])
    if chain_at(head.position) == head.chain then
      kept[#kept + 1] = { all[i], tonumber(head.position), head.version }
    else
      redis.call('HDEL', CHECKPOINTS, all[i])
      redis.call('HDEL', BODIES, all[i])
    end
  end
  table.sort(kept, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[3] > b[3]) end)
  return kept
end

-- position, chain, fold version, digest, body, how many are kept. One that is there stays: who saves another
-- state for the same place learns its digest. One that does not lie on the log is refused.
local function checkpoint()
  local position, chain, version, digest, body, kept = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
  local field = position .. ':' .. version
  local held = redis.call('HGET', CHECKPOINTS, field)
  if held and cjson.decode(held).chain == chain then return { 'held', cjson.decode(held).digest } end
  if chain_at(position) ~= chain then return { 'off' } end
  local head = { position = position, chain = chain, version = tonumber(version), digest = digest }
  redis.call('HSET', CHECKPOINTS, field, cjson.encode(head))
  redis.call('HSET', BODIES, field, body)
  local all = on_log()
  for i = kept + 1, #all do
    redis.call('HDEL', CHECKPOINTS, all[i][1])
    redis.call('HDEL', BODIES, all[i][1])
  end
  return { 'ok', digest }
end

-- the oldest and the newest fold version that will do
local function newest()
  for _, found in ipairs(on_log()) do
    if found[3] >= tonumber(ARGV[3]) and found[3] <= tonumber(ARGV[4]) then
      return { redis.call('HGET', CHECKPOINTS, found[1]), redis.call('HGET', BODIES, found[1]) }
    end
  end
  return {}
end

-- position: events up to there go, except the newest checkpoint's own and what is behind it
local function trim()
  local all = on_log()
  local last = 0
  if all[1] then last = all[1][2] - 1 end
  last = math.min(tonumber(ARGV[3]), last)
  if last < 1 then return 0 end
  return redis.call('XTRIM', EVENTS, 'MINID', '=', digits(last + 1) .. '-0')
end

-- name, owner, seconds
local function claim()
  local now = clock()
  local held = redis.call('HGET', LEASES, ARGV[3])
  if held then
    local lease = cjson.decode(held)
    if lease.owner ~= ARGV[4] and now < tonumber(lease.until_us) then return 0 end
  end
  local until_us = digits(now + tonumber(ARGV[5]) * 1e6)
  redis.call('HSET', LEASES, ARGV[3], cjson.encode({ owner = ARGV[4], until_us = until_us }))
  return 1
end

-- name, key
local function cursor()
  local held = redis.call('HGET', CURSORS, ARGV[3])
  if not held or held < ARGV[4] then redis.call('HSET', CURSORS, ARGV[3], ARGV[4]) end
  return 'ok'
end

-- the names of my keys
local function checks()
  local known = redis.call('SCARD', CHECKS) == 0
  for i = 3, #ARGV do
    known = known or redis.call('SISMEMBER', CHECKS, ARGV[i]) == 1
  end
  if not known then return 0 end
  for i = 3, #ARGV do redis.call('SADD', CHECKS, ARGV[i]) end
  return 1
end

-- format, a log id in case there is none, the fold version of a new log
local function open()
  redis.call('HSETNX', META, 'format', ARGV[3])
  redis.call('HSETNX', META, 'log_id', ARGV[4])
  redis.call('HSETNX', META, 'epoch', '1')
  redis.call('HSETNX', META, 'position', '0')
  redis.call('HSETNX', META, 'chain', '')
  redis.call('HSETNX', META, 'time_us', '0')
  redis.call('HSETNX', META, 'config', '0')
  redis.call('HSETNX', META, 'fold', ARGV[5])
  return redis.call('HMGET', META, 'format', 'log_id', 'epoch')
end

-- the epoch in which events were lost: the next one begins, once
local function rewound()
  local held = redis.call('HGET', META, 'epoch')
  if tonumber(held) > tonumber(ARGV[3]) then return held end
  redis.call('HSET', META, 'epoch', digits(tonumber(ARGV[3]) + 1))
  return redis.call('HGET', META, 'epoch')
end

-- bytes and milliseconds that are kept, then a batch of decisions: when its first and its last were made, rows, numbers.
-- The stream is the key behind the log's own.
local function batch()
  local STREAM = KEYS[12]
  local kept, retention, rows, numbers = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[7], ARGV[8]
  if redis.call('EXISTS', META) == 0 then return redis.error_reply(GONE) end
  local number = redis.call('HINCRBY', META, 'batches', 1)
  local bytes = redis.call('HINCRBY', META, 'batch_bytes', #rows + #numbers)
  redis.call('XADD', STREAM, '*', 'i', number, 'f', ARGV[5], 'l', ARGV[6], 's', #rows + #numbers, 'r', rows, 'n', numbers)
  local oldest = clock() / 1000 - retention
  while true do
    local first = redis.call('XRANGE', STREAM, '-', '+', 'COUNT', 2)
    if #first < 2 or (bytes <= kept and tonumber(first[1][2][6]) >= oldest) then return number end
    redis.call('XDEL', STREAM, first[1][1])
    bytes = redis.call('HINCRBY', META, 'batch_bytes', -tonumber(first[1][2][8]))
  end
end

-- replica, the newest fold version that it knows, what it says of itself, seconds that this is good for (0: it is gone).
-- Once all that are there know a newer version than the log's, that is the log's. Gives the log's, and all that are there.
local function replica()
  local now = clock()
  if tonumber(ARGV[6]) > 0 then
    local until_us = digits(now + tonumber(ARGV[6]) * 1e6)
    redis.call('HSET', REPLICAS, ARGV[3], cjson.encode({ fold = tonumber(ARGV[4]), said = ARGV[5], until_us = until_us }))
  else
    redis.call('HDEL', REPLICAS, ARGV[3])
  end
  local known = nil
  local there = {}
  local all = redis.call('HGETALL', REPLICAS)
  for i = 1, #all, 2 do
    local each = cjson.decode(all[i + 1])
    if tonumber(each.until_us) < now then
      redis.call('HDEL', REPLICAS, all[i])
    else
      known = math.min(known or each.fold, each.fold)
      there[#there + 1] = all[i]
      there[#there + 1] = each.said
    end
  end
  local held = redis.call('HGET', META, 'fold')
  if not held then return redis.error_reply(GONE) end
  if known and known > tonumber(held) then
    held = digits(known)
    redis.call('HSET', META, 'fold', held)
  end
  return { held, unpack(there) }
end

local command = ARGV[1]
if command == 'feedback' then return feedback() end
if command == 'append' then return append() end
if command == 'notes' then return notes() end
if command == 'checkpoint' then return checkpoint() end
if command == 'newest' then return newest() end
if command == 'trim' then return trim() end
if command == 'claim' then return claim() end
if command == 'cursor' then return cursor() end
if command == 'checks' then return checks() end
if command == 'open' then return open() end
if command == 'rewound' then return rewound() end
if command == 'replica' then return replica() end
if command == 'batch' then return batch() end
return redis.error_reply('ERR unknown command of the log: ' .. command)
