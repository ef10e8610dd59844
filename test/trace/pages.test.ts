import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { explainPages, kernelBlocksPerPage, kernelVersion, skipsExactFit } from '../../src/trace/pages.ts';

/** Number of blocks in a fresh page, as kernels before 6.4 link them. */
function oldLoop(size: number, allocation: number, boundary: number): number {
  let blocks = 0;
  let next = boundary;
  for (let offset = 0; offset < allocation; blocks++) {
    offset += size;
    if (offset + size >= next) {
      offset = next;
      next += boundary;
    }
  }
  return blocks;
}

test('blocks per page before and from 6.4', () => {
  const at = (size: number, allocation: number, skips: boolean): number =>
    kernelBlocksPerPage({ effectiveSize: size, effectiveAllocation: allocation, effectiveBoundary: allocation }, skips);
  const expected = [
    [32, 127, 128],
    [64, 63, 64],
    [96, 42, 42],
    [112, 36, 36],
    [128, 31, 32],
    [256, 15, 16],
    [512, 7, 8],
    [1024, 3, 4],
    [2048, 1, 2],
    [2112, 1, 1],
    [4096, 1, 1],
  ] as const;
  for (const [size, before, since] of expected) {
    assert.equal(at(size, 4096, true), before, String(size));
    assert.equal(at(size, 4096, false), since, String(size));
  }
  assert.equal(at(147456, 147456, true), 1);
  assert.equal(at(147456, 147456, false), 1);
});

test('the rule before 6.4 agrees with its loop', () => {
  fc.assert(
    fc.property(fc.integer({ min: 4, max: 4096 }), fc.integer({ min: 2, max: 12 }), (size, bits) => {
      const boundary = 2 ** bits;
      fc.pre(boundary >= size);
      const pool = { effectiveSize: size, effectiveAllocation: 4096, effectiveBoundary: boundary };
      assert.equal(kernelBlocksPerPage(pool, true), oldLoop(size, 4096, boundary));
    }),
  );
});

test('kernels before 6.4 skip the exact fit', () => {
  const skips = (text: string | undefined): boolean => skipsExactFit(kernelVersion(text));
  assert.ok(skips('Linux version 6.1.0-56-amd64 (Debian)'));
  assert.ok(skips('Linux version 6.3.12'));
  assert.ok(skips('5.19'));
  assert.ok(!skips('Linux version 6.4.0'));
  assert.ok(!skips('Linux version 6.12.9'));
  assert.ok(!skips('7.0'));
  assert.ok(skips(undefined));
});

test('the reasons for fewer pages are correct', () => {
  const version = { major: 6, minor: 1 };
  const base = { ours: 5, oursPerPage: 16, kernel: 6, kernelPerPage: 15, peak: 76, recorded: 6, raced: 0 };
  assert.deepEqual(explainPages({ ...base, ours: 6 }, version), []);
  assert.match(explainPages(base, version).join(), /^Linux 6\.1 cuts 15 blocks from a page where 16 fit[^,]*$/);
  // By its rule the kernel needs ceil(76/16) = 5, as we do; it took the sixth in a race.
  const race = { ...base, kernelPerPage: 16, raced: 1 };
  assert.match(explainPages(race, version).join(), /^Linux 6\.1 took 1 page although blocks were freed[^,]*$/);
  assert.equal(explainPages({ ...base, kernel: 7, recorded: 7, raced: 1 }, version).length, 2);
  assert.match(explainPages({ ...base, kernel: 9 }, version).join(), /more pages than its trace, which has 6/);
  assert.deepEqual(explainPages({ ...race, raced: 0 }, null), ['the trace does not show why']);
});
