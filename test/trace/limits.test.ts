/** A small file can decompress to any size and contain any numbers: beyond a limit it is an error, in bounded time and memory. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  decodeTrace,
  type DecodedTrace,
  DmaTraceError,
  readPools,
  readTrace,
  replayTrace,
  TRACE_LIMIT,
} from 'dmapool/trace';
import { bytesOf, KERNEL, line, MAGIC, replaced, SMALL, SMALL_POOLS } from './hand-made.ts';

/** Lines as a stream, a few thousand at a time, so that no large file is in memory. */
function* streamOf(lines: Iterable<string>): Generator<Uint8Array> {
  let text = '';
  for (const each of lines) {
    text += `${each}\n`;
    if (text.length < 1 << 16) continue;
    yield Buffer.from(text);
    text = '';
  }
  yield Buffer.from(text);
}

async function refused(lines: Iterable<string>, expected: RegExp): Promise<DmaTraceError> {
  const error: unknown = await decodeTrace(streamOf(lines)).then(
    () => assert.fail('it was read'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof DmaTraceError, String(error));
  assert.match(error.message, expected);
  return error;
}

const decoded = (lines: Iterable<string>): Promise<DecodedTrace> => decodeTrace(streamOf(lines));
const create = (pool: number, device = 'dev', size = 16, align = 0): string =>
  line(1, 0, 'create', pool, device, 'pool', size, align, 0, 16, 4096, 4096);
const alloc = (block: number, pool = 0): string => line(2, 0, 'alloc', pool, 'K', block, 0, 0, '1000', 1, 'cc0', 1, 1);
const free = (block: number, pool = 0): string => line(3, 0, 'free', pool, block, 0, 0, '1000', 0, 1);

function* repeated(count: number, make: (i: number) => string, ...before: string[]): Generator<string> {
  yield* before;
  for (let i = 0; i < count; i++) yield make(i);
}

test('an endless header, of fields or of comments', async () => {
  for (const make of [
    (i: number) => line(`#k${String(i)}`, 'v'.repeat(60_000)),
    () => `#${'r'.repeat(60_000)}`,
    (i: number) => line(`#${String(i)}`, ''),
  ]) {
    let made = 0;
    const endless = repeated(1e9, (i) => {
      made = i;
      return make(i);
    });
    const error = await refused(endless, /expected a header of at most 1048576 characters; found more/);
    assert.ok(made < 500_000);
    assert.equal(error.line > 10, true);
  }
  const fields = (await decoded(repeated(1000, (i) => line(`#k${String(i)}`, 'v'.repeat(1000)), MAGIC))).header.fields;
  assert.equal(fields.size, 1000);
});

test('endless events, also of a kind that a replay omits', async () => {
  const refusedAlloc = line(1, 0, 'alloc', 0, 'K', -1, -1, -1, '-', -1, 'cc0', 1, 2);
  const endless = repeated(1e9, () => refusedAlloc);
  await refused(endless, /expected at most 2097152 lines after the header; found more/);
});

test('readTrace reads more events than a replay accepts', async () => {
  let events = 0;
  for await (const event of readTrace(streamOf(repeated(TRACE_LIMIT.pools + 1, create)))) {
    if (event.type === 'create') events++;
  }
  assert.equal(events, TRACE_LIMIT.pools + 1);
});

test('pools, devices, blocks, bytes, snapshots and their rows', async () => {
  const snap = (edge: string, label: number): string => line(1, 0, 'snap', edge, `s${String(label)}`);
  const snaps = (i: number): string => snap(i % 2 === 0 ? 'begin' : 'end', i >> 1);
  await refused(repeated(1e9, create), /at most 4096 pools/);
  await refused(
    repeated(1e9, (i) => create(i, `dev ${String(i)}`)),
    /at most 256 devices/,
  );
  await refused(repeated(1e9, alloc, create(0)), /at most 524288 blocks/);
  const huge = 2 ** 31 - 1;
  await refused(
    repeated(1e9, (i) => (i % 2 === 0 ? alloc(0) : free(0)), create(0, 'dev', huge)),
    /at most 17179869184 bytes/,
  );
  await refused(
    repeated(1e9, (i) => (i % 2 === 0 ? alloc(0) : free(0)), create(0, 'dev', 1, 2 ** 30)),
    /17179869184 bytes/,
  );
  await refused(repeated(1e9, snaps), /at most 1024 snapshots/);
  const creates = Array.from({ length: 4000 }, (_, i) => create(i));
  await refused(repeated(1e9, snaps, ...creates), /at most 262144 rows of pools in snapshots/);
  await refused([snap('begin', 0), ...creates], /262144 rows/);
  await refused([...creates, snap('begin', 0), ...creates.map((_, i) => line(1, 0, 'destroy', i))], /262144 rows/);
});

test('names and numbers', async () => {
  const long = 'n'.repeat(TRACE_LIMIT.name + 1);
  await refused(replaced(SMALL, 4, 'prp list 256', long), /text of at most 1024 characters for name/);
  await refused(replaced(SMALL, 4, '0000:00:02.0', long), /text of at most 1024 characters for dev/);
  await refused(replaced(SMALL, 6, 'mid', long), /text of at most 1024 characters for label/);
  await refused(replaced(SMALL, 5, '20\t', `${'0'.repeat(60_000)}20\t`), /for t_ns/);
  await refused(replaced(SMALL, 5, 'fff00000', `${'0'.repeat(60_000)}1`), /for dma/);
});

test('the largest valid trace replays in a default heap', async () => {
  const lines = repeated(TRACE_LIMIT.blocks, alloc, KERNEL, create(0));
  const { failures, allocs, notes } = replayTrace(await decoded(lines), { repeat: 1 });
  assert.deepEqual([failures, allocs, notes.length], [0, TRACE_LIMIT.blocks, 1]);
});

test('all devices together get no more memory than one', async () => {
  const size = 2 ** 29;
  const lines = Array.from({ length: 6 }, (_, i) => [create(i, `dev ${String(i)}`, size), alloc(0, i)]).flat();
  const { failures, mismatches } = replayTrace(await decoded(lines), { repeat: 1 });
  assert.ok(failures >= 4 && failures < 6, String(failures));
  assert.ok(mismatches.every(({ field }) => field === 'alloc'));
});

test('a kernel field of digits alone takes linear time', async () => {
  const lines = SMALL.with(2, line('#kernel', '1'.repeat(65_000)));
  const begin = performance.now();
  assert.equal(replayTrace(await decoded(lines), { repeat: 1 }).failures, 0);
  assert.ok(performance.now() - begin < 1000);
});

test('expectations', async () => {
  const reads = async (lines: Iterable<string>, expected: RegExp): Promise<void> => {
    await assert.rejects(readPools(streamOf(lines)), (error) => {
      assert.ok(error instanceof DmaTraceError, String(error));
      assert.match(error.message, expected);
      return true;
    });
  };
  const row = SMALL_POOLS[2]!;
  const file = (i: number): string => SMALL_POOLS[0]!.replace('mid', `s${String(i)}`);
  await reads(
    repeated(1e9, () => row, ...SMALL_POOLS.slice(0, 2)),
    /expected a file of at most 4095 bytes/,
  );
  await reads(
    repeated(1e9, (i) => (i % 2 === 0 ? file(i) : 'poolinfo - 0.1')),
    /at most 4096 files/,
  );
  await reads([`## snapshot=${' t_ns=1 file=/a/b'.repeat(3000)}`], /expected ## snapshot=LABEL/);
  await reads([...SMALL_POOLS.slice(0, 2), row.replace('16', '9'.repeat(400))], /expected name, active/);
  await reads([SMALL_POOLS[0]!.replace('35', '9'.repeat(17))], /at a time below 2\^53/);
  assert.equal((await readPools(bytesOf(SMALL_POOLS))).length, 2);
});
