import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { AdaptivePolling } from '../../src/pci/adaptive-polling.ts';
import { Random } from '../support/random.ts';

void describe('adaptive polling', () => {
  void it('polls twice as long as the latest wait of the vector took, and not after a long one', () => {
    const polling = new AdaptivePolling(2);
    assert.equal(polling.limit(0, 0), 0, 'nothing is known yet');
    polling.record(0, 0.125, 0);
    assert.equal(polling.limit(0, 1), 0.25);
    assert.equal(polling.limit(1, 1), 0, 'another vector');
    polling.record(0, 0.4, 0.4);
    assert.equal(polling.limit(0, 2), 0.5, 'at most 0.5 ms');
    polling.record(0, 0.51, 0.5);
    assert.equal(polling.limit(0, 100), 0);
    polling.record(0, 0.25, 0);
    assert.equal(polling.limit(0, 101), 0.5);
  });

  void it('takes at most half of the time, and 5.5 ms before it has taken less', () => {
    for (let seed = 1; seed <= 100; seed++) {
      const random = new Random(seed);
      const polling = new AdaptivePolling(3);
      let now = random.below(1000);
      const start = now;
      let polled = 0;
      let polls = 0;
      for (let i = 0; i < 2000; i++) {
        const vector = random.below(3);
        const limit = polling.limit(vector, now);
        const waited = random.below(1000) / (random.chance(0.002) ? 10 : 4000);
        const time = Math.min(limit, waited);
        polling.record(vector, waited, time);
        now += waited;
        polled += time;
        if (time > 0) polls++;
        assert.ok(
          polled <= (now - start) / 2 + 5.5,
          `seed ${String(seed)}: ${String(polled)} of ${String(now - start)}`,
        );
      }
      assert.ok(polls > 100, `seed ${String(seed)}: ${String(polls)}`);
    }
  });
});
