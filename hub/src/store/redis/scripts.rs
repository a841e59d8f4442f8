//! What runs inside the server, where nothing comes between a check and a write.
//!
//! Numbers are compared as text where they may be beyond 2^53, as far as Lua counts exactly. A script that writes checks
//! everything first: when it fails, it has written nothing. Where memory is freed, that comes first too: a server that is
//! out of it refuses a script whose first write would take more.

use std::sync::LazyLock;

use redis::Script;

/// Begins every script that writes a node. KEYS: hub, state, stream, nodes. ARGV: fence, version, rows.
macro_rules! guarded {
    ($body:literal) => {
        concat!(
            r"
local fence = redis.call('GET', KEYS[1])
if fence ~= ARGV[1] then
  if fence and tonumber(fence) > tonumber(ARGV[1]) then return 'superseded' end
  return 'unfenced'
end
if ARGV[2] ~= '' then
  local version = redis.call('HGET', KEYS[2], 'version') or '0'
  if version ~= ARGV[2] or redis.call('XLEN', KEYS[3]) ~= tonumber(ARGV[3]) then return 'look' end
end
",
            $body
        )
    };
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $code:expr;)+) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));)+

        /// Every script, to be loaded into a server that does not know them.
        pub(super) fn all() -> impl Iterator<Item = &'static str> {
            [$($code),+].into_iter()
        }
    };
}

scripts! {
    /// Takes the right to write. KEYS: hub. ARGV: fence.
    CLAIM = r"
local fence = redis.call('GET', KEYS[1])
if fence and tonumber(fence) > tonumber(ARGV[1]) then return 'superseded' end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
return 'done'
";

    /// Adds rows behind those that are there. ARGV further: the node, the number of the hash's fields and values, these,
    /// then for each row its id, its measures, its data.
    APPEND = guarded!(r"
local fields = 5 + tonumber(ARGV[5])
for i = fields + 1, #ARGV, 3 do
  redis.call('XADD', KEYS[3], ARGV[i], 'm', ARGV[i + 1], 'd', ARGV[i + 2])
end
redis.call('HSET', KEYS[2], unpack(ARGV, 6, fields))
redis.call('SADD', KEYS[4], ARGV[4])
return 'done'
");

    /// Adds rows of a boot that others followed already: the stream is written anew, as an id cannot be before the last
    /// one. Arguments as for `APPEND`.
    INSERT = guarded!(r"
local function order(id)
  local boot, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #boot) .. boot .. string.rep('0', 20 - #seq) .. seq
end
local fields = 5 + tonumber(ARGV[5])
local rows = {}
for _, row in ipairs(redis.call('XRANGE', KEYS[3], '-', '+')) do
  rows[#rows + 1] = { order(row[1]), row[1], row[2] }
end
for i = fields + 1, #ARGV, 3 do
  rows[#rows + 1] = { order(ARGV[i]), ARGV[i], { 'm', ARGV[i + 1], 'd', ARGV[i + 2] } }
end
table.sort(rows, function(a, b) return a[1] < b[1] end)
redis.call('HSET', KEYS[2], unpack(ARGV, 6, fields))
redis.call('DEL', KEYS[3])
for _, row in ipairs(rows) do
  redis.call('XADD', KEYS[3], row[2], unpack(row[3]))
end
redis.call('SADD', KEYS[4], ARGV[4])
return 'done'
");

    /// Removes the first rows. ARGV further: the id of the first row that stays, or nothing; the number of the hash's fields
    /// and values, these; then fields to delete.
    DROP = guarded!(r"
local fields = 5 + tonumber(ARGV[5])
if ARGV[4] == '' then
  redis.call('XTRIM', KEYS[3], 'MAXLEN', '=', 0)
else
  redis.call('XTRIM', KEYS[3], 'MINID', '=', ARGV[4])
end
redis.call('HSET', KEYS[2], unpack(ARGV, 6, fields))
for i = fields + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return 'done'
");

    /// Makes the hash say what is true of the stream. Version and rows are not looked at. ARGV further: whether the stream
    /// stays (`keep`), goes (`drop`) or is written anew (`renew`), so that it takes ids again which it had; the node, then the
    /// hash's fields and values; none: the hash goes too.
    AMEND = guarded!(r"
local rows = {}
if ARGV[4] == 'renew' then rows = redis.call('XRANGE', KEYS[3], '-', '+') end
if ARGV[4] ~= 'keep' then redis.call('UNLINK', KEYS[3]) end
for _, row in ipairs(rows) do redis.call('XADD', KEYS[3], row[1], unpack(row[2])) end
redis.call('UNLINK', KEYS[2])
if #ARGV > 5 then
  redis.call('HSET', KEYS[2], unpack(ARGV, 6, #ARGV))
  redis.call('SADD', KEYS[4], ARGV[5])
else
  redis.call('SREM', KEYS[4], ARGV[5])
end
return 'done'
");

    /// What stands in a node's keys. KEYS: state, stream. Answers the hash, the number of rows, and ids and measures of the
    /// first and the last.
    LOOK = r"
local function measures(rows)
  local row = rows[1]
  if not row then return {} end
  return { row[1], row[2][2] }
end
return {
  redis.call('HGETALL', KEYS[1]),
  redis.call('XLEN', KEYS[2]),
  measures(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)),
  measures(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)),
}
";

    /// Ids and measures of rows, without their data. KEYS: stream. ARGV: XRANGE or XREVRANGE, from, to, how many.
    MEASURES = r"
local found = {}
for _, row in ipairs(redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])) do
  found[#found + 1] = row[1]
  found[#found + 1] = row[2][2]
end
return found
";
}
