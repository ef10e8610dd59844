/** `npm run bench -- --traces`: all contenders do the same with the recorded calls. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compareTraces, formatTraceComparison } from '../../bench/compare-traces.ts';

test('the C peer and both forms place the blocks of a recording equally, and the figures are plausible', async () => {
  const comparison = await compareTraces({ processes: 1, runtimes: [process.execPath], only: 'xhci' });
  const [row, ...others] = comparison.runtimes[0]!.rows;
  assert.equal(others.length, 0);
  assert.equal(row!.trace, 'xhci');
  assert.equal(row!.calls, 2304);
  assert.equal(row!.locked === null, comparison.peerMissing !== null);
  for (const { first, best, median } of [row!.locked, row!.unlocked, row!.index, row!.object].filter(
    (x) => x !== null,
  )) {
    assert.ok(first > 0 && best > 0 && best <= median);
  }
  assert.match(formatTraceComparison(comparison), /^xhci +2,304 +12 /m);
});
