import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatSchedule, KILL, parseSchedule, TIME_OUT } from '../schedule.ts';

test('a schedule survives a round trip through text', () => {
  const actions = [0, 0, 0, 1, KILL, 2, 2, TIME_OUT + 1, 1];
  assert.equal(formatSchedule(actions), '0*3 1*1 !0 2*2 ~1 1*1');
  assert.deepEqual(parseSchedule(formatSchedule(actions)), actions);
  assert.deepEqual(parseSchedule(''), []);
});

test('an invalid schedule is refused', () => {
  for (const text of ['0*', 'x', '0*1 99*1', '!', '-1*2'])
    assert.throws(() => parseSchedule(text), /not part of a schedule/);
});
