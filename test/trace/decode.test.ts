import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeTrace, DmaTraceError, OPERATION } from 'dmapool/trace';
import { bytesOf, line, replaced, SMALL } from './hand-made.ts';

test('operations in order, with blocks as slots', async () => {
  const trace = await decodeTrace(bytesOf(SMALL), { name: 'small' });
  const { create, alloc, zalloc, free, destroy } = OPERATION;
  assert.equal(trace.name, 'small');
  assert.deepEqual([...trace.operations], [create, alloc, zalloc, free, free, destroy]);
  assert.deepEqual([...trace.slotOf], [0, 0, 1, 0, 1, 0]);
  assert.deepEqual([...trace.poolOf], [0, 0, 0, 0, 0, 0]);
  assert.deepEqual([...trace.lineOf], [5, 6, 8, 10, 13, 14]);
  assert.equal(trace.slots, 2);
  assert.deepEqual(trace.devices, ['0000:00:02.0']);
  assert.deepEqual(trace.snapshots, [
    { label: 'mid', begin: 2, end: 3 },
    { label: 'end', begin: 4, end: 4 },
  ]);
  assert.deepEqual(trace.counts, { creates: 1, allocs: 2, frees: 2, destroys: 1 });
});

test('equal block numbers of two pools are two blocks; pool numbers may have gaps', async () => {
  const second = SMALL[4]!.replace('create\t0', 'create\t7');
  const alloc = SMALL[5]!.replace('alloc\t0', 'alloc\t7');
  const trace = await decodeTrace(bytesOf([...SMALL.slice(0, 6), second, alloc]));
  assert.deepEqual([...trace.poolOf], [0, 0, 1, 1]);
  assert.deepEqual([...trace.slotOf], [0, 0, 0, 1]);
  assert.deepEqual(
    trace.pools.map((pool) => pool.pool),
    [0, 7],
  );
});

test('failed allocations are no operations', async () => {
  const refused = line(25, 0, 'alloc', 0, 'K', -1, -1, -1, '-', -1, 'cc0', 1, 2);
  const trace = await decodeTrace(bytesOf(SMALL.toSpliced(6, 0, refused)));
  assert.equal(trace.refused, 1);
  assert.deepEqual(trace.counts, { creates: 1, allocs: 2, frees: 2, destroys: 1 });
});

const contradictions: readonly (readonly [what: string, lines: readonly string[], at: number, expected: RegExp])[] = [
  ['a call on an unknown pool', replaced(SMALL, 5, 'alloc\t0', 'alloc\t3'), 6, /a pool that was created before/],
  ['a destroy of an unknown pool', replaced(SMALL, 13, 'destroy\t0', 'destroy\t3'), 14, /a pool that was created/],
  ['a pool number used twice', SMALL.with(5, SMALL[4]!), 6, /not used before/],
  ['an end without beginning', SMALL.toSpliced(6, 1), 8, /snap begin first/],
  ['an end of another', replaced(SMALL, 8, 'mid', 'min'), 9, /snap end mid/],
  ['a beginning in the middle', SMALL.toSpliced(8, 1), 10, /snap end mid/],
  ['a beginning at the end', SMALL.slice(0, 7), 8, /snap end mid/],
  ['a label used twice', [...SMALL, SMALL[6]!], 15, /a label not used before/],
  ['a page number out of range', replaced(SMALL, 5, '0\t0\t0\tfff', '0\t4294967296\t0\tfff'), 6, /page number/],
];

for (const [what, lines, at, expected] of contradictions) {
  test(`refused: ${what}`, async () => {
    await assert.rejects(decodeTrace(bytesOf(lines), { name: 'x.trace' }), (error) => {
      assert.ok(error instanceof DmaTraceError);
      assert.match(error.expected, expected);
      assert.equal(error.line, at);
      return true;
    });
  });
}
