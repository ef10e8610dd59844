import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DmaArgumentError, DmaMappingError } from 'dmapool';
import { MAX_REGION_PAGES, PageAllocator } from '../../src/memory/page-allocator.ts';

const PAGE = 4096;

/** The same allocator as an array of pages, searched from the start. */
class Model {
  readonly used: boolean[];
  readonly basePage: number;

  constructor(basePage: number, pages: number) {
    this.basePage = basePage;
    this.used = new Array<boolean>(pages).fill(false);
  }

  /** Page number of the lowest free naturally aligned chunk below the limit, or -1; takes `count` pages of it. */
  alloc(bytes: number, limit: number): number {
    const count = Math.ceil(bytes / PAGE);
    let chunk = 1;
    while (chunk < count) chunk *= 2;
    for (let i = (chunk - (this.basePage % chunk)) % chunk; i + chunk <= this.used.length; i += chunk) {
      if ((this.basePage + i) * PAGE + bytes - 1 > limit) return -1;
      if (this.all(i, chunk, false)) {
        this.used.fill(true, i, i + count);
        return this.basePage + i;
      }
    }
    return -1;
  }

  all(index: number, count: number, used: boolean): boolean {
    if (index < 0 || index + count > this.used.length) return false;
    return this.used.slice(index, index + count).every((page) => page === used);
  }

  get count(): number {
    return this.used.reduce((sum, page) => sum + Number(page), 0);
  }
}

type Step =
  | { do: 'alloc'; bytes: number; limit: number | undefined }
  | { do: 'free'; pick: number }
  | { do: 'freeRange'; at: number; count: number };

const count = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 5 }) }, fc.integer({ min: 1, max: 70 }));

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('alloc' as const),
      bytes: fc.oneof(
        count.map((n) => n * PAGE),
        fc.integer({ min: 1, max: 300000 }),
      ),
      // A page number relative to the base; most requests have no limit.
      limit: fc.option(fc.integer({ min: -2, max: 300 }), { nil: undefined, freq: 3 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('free' as const), pick: fc.nat(1000) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('freeRange' as const),
      at: fc.integer({ min: -2, max: 300 }),
      count,
    }),
  },
);

const basePage = fc.oneof(
  fc.constantFrom(0, 1, 2, 31, 33, 2 ** 20, 2 ** 20 - 1, 2 ** 20 - 3, 2 ** 40 + 7, 2 ** 41 - 300),
  fc.nat(5000),
);

void describe('PageAllocator against an array of pages', () => {
  void it('gives the same pages through long random histories', () => {
    fc.assert(
      fc.property(
        basePage,
        fc.integer({ min: 1, max: 300 }),
        fc.array(step, { minLength: 1, maxLength: 120, size: 'max' }),
        (base, pages, steps) => {
          const allocator = new PageAllocator({ base: base * PAGE, size: pages * PAGE, pageSize: PAGE });
          const model = new Model(base, pages);
          const live: { address: number; bytes: number }[] = [];
          for (const s of steps) {
            run(allocator, model, live, s);
            assert.equal(allocator.usedPages, model.count);
          }
          // Freed page by page, in another order than allocated, all of it merges again.
          model.used.forEach((used, i) => {
            if (used) allocator.free((base + i) * PAGE, PAGE);
          });
          assert.equal(allocator.usedPages, 0);
          assert.equal(allocator.alloc(PAGE), base * PAGE);
          allocator.free(base * PAGE, PAGE);
          const whole = new Model(base, pages).alloc(pages * PAGE, Infinity);
          assert.equal(allocator.alloc(pages * PAGE), whole === -1 ? -1 : whole * PAGE);
        },
      ),
      { numRuns: 300 },
    );
  });

  function run(allocator: PageAllocator, model: Model, live: { address: number; bytes: number }[], s: Step): void {
    const at = (page: number): number => (model.basePage + page) * PAGE;
    switch (s.do) {
      case 'alloc': {
        const limit =
          s.limit === undefined
            ? Number.MAX_SAFE_INTEGER
            : Math.min(Math.max(0, at(s.limit) + PAGE - 1), Number.MAX_SAFE_INTEGER);
        const expected = model.alloc(s.bytes, limit);
        const before = allocator.highWater;
        const address = allocator.alloc(s.bytes, s.limit === undefined ? undefined : limit);
        assert.equal(address, expected === -1 ? -1 : expected * PAGE);
        if (address !== -1) live.push({ address, bytes: s.bytes });
        const end = address === -1 ? 0 : address + Math.ceil(s.bytes / PAGE) * PAGE;
        assert.equal(allocator.highWater, Math.max(before, end));
        return;
      }
      case 'free': {
        const [chosen] = live.splice(s.pick % Math.max(1, live.length), 1);
        if (chosen === undefined) return;
        const index = chosen.address / PAGE - model.basePage;
        freeBoth(allocator, model, index, Math.ceil(chosen.bytes / PAGE), chosen.bytes);
        return;
      }
      case 'freeRange':
        if (Number.isSafeInteger(at(s.at)) && at(s.at) >= 0) freeBoth(allocator, model, s.at, s.count, s.count * PAGE);
    }
  }

  // Both sides refuse to free pages that a range free has already freed in whole or in part.
  function freeBoth(allocator: PageAllocator, model: Model, index: number, pages: number, bytes: number): void {
    const address = (model.basePage + index) * PAGE;
    if (model.all(index, pages, true)) {
      allocator.free(address, bytes);
      model.used.fill(false, index, index + pages);
    } else {
      assert.throws(
        () => {
          allocator.free(address, bytes);
        },
        { name: 'DmaMappingError', code: 'ERR_DMAPOOL_NOT_MAPPED' },
      );
    }
  }
});

void describe('PageAllocator', () => {
  void it('leaves the tail of a chunk to smaller requests', () => {
    const pages = new PageAllocator({ base: 0, size: 16 * PAGE, pageSize: PAGE });
    assert.equal(pages.alloc(5 * PAGE), 0);
    assert.equal(pages.alloc(PAGE), 5 * PAGE);
    assert.equal(pages.alloc(2 * PAGE), 6 * PAGE);
    assert.equal(pages.alloc(PAGE), 8 * PAGE);
  });

  void it('aligns addresses, not offsets from an odd base', () => {
    const pages = new PageAllocator({ base: 2 ** 32 - 3 * PAGE, size: 2 ** 30, pageSize: PAGE });
    assert.equal(pages.alloc(8 * PAGE), 2 ** 32);
    assert.equal(pages.alloc(2 * PAGE), 2 ** 32 - 2 * PAGE);
    assert.equal(pages.alloc(PAGE), 2 ** 32 - 3 * PAGE);
  });

  void it('works at the very end of the exact numbers', () => {
    const size = 4 * PAGE;
    const pages = new PageAllocator({ base: 2 ** 53 - size, size, pageSize: PAGE });
    assert.equal(pages.alloc(size), 2 ** 53 - size);
    assert.equal(pages.alloc(1), -1);
    pages.free(2 ** 53 - PAGE, PAGE);
    assert.equal(pages.alloc(1), 2 ** 53 - PAGE);
  });

  void it('applies the limit to the requested bytes, not to the rest of their page', () => {
    const pages = new PageAllocator({ base: 0, size: 4 * PAGE, pageSize: PAGE });
    assert.equal(pages.alloc(100, 98), -1);
    assert.equal(pages.alloc(100, 99), 0);
    assert.equal(pages.alloc(1, PAGE - 1), -1);
  });

  void it('costs little while few pages of a huge region are used', () => {
    const pages = new PageAllocator({ base: 0, size: MAX_REGION_PAGES * PAGE, pageSize: PAGE });
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 1000; i++) assert.equal(pages.alloc(PAGE), i * PAGE);
    // A request that fits nowhere must not build the tree.
    assert.equal(pages.alloc(2 ** 40, 2 ** 39), -1);
    assert.equal(pages.alloc(PAGE, 999 * PAGE), -1);
    assert.ok(process.memoryUsage().arrayBuffers - before < 100_000);
  });

  void it('treats an engine without memory for the tree as exhaustion', () => {
    const pages = new PageAllocator({ base: 0, size: 1024 * PAGE, pageSize: PAGE });
    for (let i = 0; i < 32; i++) pages.alloc(PAGE);
    const original = globalThis.Uint8Array;
    globalThis.Uint8Array = function (): never {
      throw new RangeError('Array buffer allocation failed');
    } as unknown as Uint8ArrayConstructor;
    try {
      assert.equal(pages.alloc(PAGE), -1);
    } finally {
      globalThis.Uint8Array = original;
    }
    assert.equal(pages.usedPages, 32);
    assert.equal(pages.alloc(PAGE), 32 * PAGE);
  });

  void it('refuses invalid arguments', () => {
    const good = { base: 0, size: 16 * PAGE, pageSize: PAGE };
    const wrong: [string, object][] = [
      ['pageSize', { pageSize: 5000 }],
      ['pageSize', { pageSize: 0 }],
      ['base', { base: 100 }],
      ['base', { base: -PAGE }],
      ['size', { size: 0 }],
      ['size', { size: PAGE + 1 }],
      ['size', { base: 2 ** 53 - PAGE, size: 2 * PAGE }],
      ['size', { size: (MAX_REGION_PAGES + 1) * PAGE }],
    ];
    for (const [argument, change] of wrong) {
      assert.throws(
        () => new PageAllocator({ ...good, ...change }),
        (error) => error instanceof DmaArgumentError && error.argument === argument,
      );
    }
    const pages = new PageAllocator(good);
    for (const bytes of [0, -1, 1.5, NaN]) assert.throws(() => pages.alloc(bytes), DmaArgumentError);
    assert.throws(() => pages.alloc(1, NaN), DmaArgumentError);
    assert.throws(() => {
      pages.free(1, PAGE);
    }, DmaArgumentError);
    assert.throws(() => {
      pages.free(0, PAGE);
    }, DmaMappingError);
    assert.equal(pages.usedPages, 0);
  });
});
