import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { AdaptivePolling } from '../../src/pci/adaptive-polling.ts';
import { Random } from '../support/random.ts';

void describe('adaptive polling', () => {
  void it('polls twice as long as the latest wait of the vector took, and not after a long one', () => {
    const polling = new AdaptivePolling(2);
    assert.equal(polling.limit(0, 0), 0, 'nothing is known yet');
    polling.record(0, 0.125);
    assert.equal(polling.limit(0, 1), 0.25);
    assert.equal(polling.limit(1, 1), 0, 'another vector');
    polling.record(0, 0.4);
    assert.equal(polling.limit(0, 2), 0.5, 'at most 0.5 ms');
    polling.record(0, 0.51);
    assert.equal(polling.limit(0, 100), 0);
    polling.record(0, 0.25);
    assert.equal(polling.limit(0, 101), 0.5);
  });

  void it('takes at most half of the time, after 5.5 ms, and counts polls at the same time once', () => {
    for (let seed = 1; seed <= 100; seed++) {
      const random = new Random(seed);
      const vectors = 1 + random.below(8);
      const polling = new AdaptivePolling(vectors);
      let now = random.below(1000);
      const start = now;
      let polled = 0;
      let polls = 0;
      for (let i = 0; i < 2000; i++) {
        // Waits that begin together and end one after the other.
        const waits = 1 + random.below(vectors);
        const ends: number[] = [];
        for (let vector = 0; vector < waits; vector++) {
          const limit = polling.limit(vector, now);
          const waited = random.below(1000) / (random.chance(0.002) ? 10 : 4000);
          polling.record(vector, waited);
          if (limit === 0) continue;
          polling.begin(now);
          ends.push(now + Math.min(limit, waited));
        }
        for (const end of ends.sort((a, b) => a - b)) {
          polling.end(end);
          polled += end - now;
          now = end;
          polls++;
        }
        now += random.below(100) / 1000;
        const most = (now - start) / 2 + 5.5;
        assert.ok(polled <= most, `seed ${String(seed)}: ${String(polled)} of ${String(now - start)} ms`);
      }
      assert.ok(polls > 500, `seed ${String(seed)}: ${String(polls)} polls`);
    }
  });

  void it('polls as many vectors as wait at the same time', () => {
    const polling = new AdaptivePolling(64);
    let polls = 0;
    let now = 0;
    for (let i = 0; i < 1000; i++) {
      const limits = Array.from({ length: 64 }, (_, vector) => polling.limit(vector, now));
      const polled = limits.filter((limit) => limit > 0).length;
      polls += polled;
      for (let k = 0; k < polled; k++) polling.begin(now);
      for (let k = 0; k < polled; k++) polling.end(now + 0.2);
      for (let vector = 0; vector < 64; vector++) polling.record(vector, 0.2);
      // Half of the time is left for other work.
      now += 0.41;
    }
    assert.equal(polls, 64 * 999);
  });
});
