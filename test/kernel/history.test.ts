/** Random histories by Linux's names and by the classes, on two equal machines, have the same results. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Device, dmaBitMask, type DmaBlock, DmaError, DmaMaskError, DmaPool, DmaSourceError } from 'dmapool';
import {
  __GFP_ZERO,
  dma_alloc_coherent,
  dma_free_coherent,
  dma_pool_alloc,
  dma_pool_create,
  dma_pool_create_node,
  dma_pool_destroy,
  dma_pool_free,
  dma_pool_zalloc,
  dma_set_mask_and_coherent,
  dmam_pool_create,
  dmam_pool_destroy,
  GFP_ATOMIC,
  GFP_KERNEL,
} from 'dmapool/kernel';
import type { CoherentMemory } from 'dmapool';
import { indicesOf } from '../support/pools.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

type Geometry = readonly [size: number, align: number, boundary: number];

/** One call; its numbers select among the existing objects. */
type Step =
  | { readonly call: 'create'; readonly kind: 'plain' | 'node' | 'managed'; readonly geometry: Geometry }
  | { readonly call: 'alloc'; readonly pool: number; readonly form: 'kernel' | 'atomic' | 'zero' | 'zalloc' }
  | { readonly call: 'free'; readonly pool: number; readonly block: number; readonly withDma: boolean }
  | { readonly call: 'free badly'; readonly pool: number; readonly how: BadFree }
  | { readonly call: 'destroy'; readonly pool: number }
  | { readonly call: 'detach' }
  | { readonly call: 'coherent'; readonly size: number }
  | { readonly call: 'free coherent'; readonly which: number }
  | { readonly call: 'mask'; readonly bits: number }
  | { readonly call: 'trim'; readonly pool: number }
  | { readonly call: 'fail next'; readonly times: number };

type BadFree = 'twice' | 'foreign' | 'wrong address' | 'null' | 'garbage';

/** One of the two machines: a device with its memory and pools. Calls return plain data. */
abstract class World {
  readonly log: RecordingLog = new RecordingLog();
  readonly memory: FaultyMemory = new FaultyMemory({ limit: 24 * 4096 });
  readonly device: Device;
  readonly pools: (DmaPool | null)[] = [];
  readonly held: DmaBlock[][] = [];
  readonly freed: (DmaBlock | undefined)[] = [];
  readonly rings: CoherentMemory[] = [];
  #failures = 0;

  constructor() {
    this.memory.onAlloc = () => (this.#failures > 0 && this.#failures-- > 0 ? 'none' : 'ok');
    this.device = new Device({ name: 'two', memory: this.memory, log: this.log });
  }

  run(step: Step): unknown {
    if (step.call === 'fail next') {
      this.#failures = step.times;
      return step.times;
    }
    if (step.call === 'detach') {
      this.device.detach();
      return 'detached';
    }
    if (step.call === 'create') {
      const pool = this.create(step.kind, step.geometry);
      this.pools.push(pool);
      this.held.push([]);
      if (pool === null) return null;
      const { blockSize, blocksPerPage, effectiveBoundary } = pool.geometry;
      return { blockSize, blocksPerPage, effectiveBoundary };
    }
    if (step.call === 'coherent') {
      const ring = this.coherent(step.size);
      if (ring !== null) this.rings.push(ring);
      return ring?.dma ?? null;
    }
    if (step.call === 'free coherent') {
      const [ring] = this.rings.splice(step.which % (this.rings.length + 1), 1);
      if (ring !== undefined) this.freeCoherent(ring);
      return ring?.dma;
    }
    if (step.call === 'mask') return this.mask(step.bits === 64 ? 2 ** 64 : dmaBitMask(step.bits));
    if (this.pools.length === 0) return 'no pool';
    const at = step.pool % this.pools.length;
    const pool = this.pools[at]!;
    if (pool === null) return 'null';
    const held = this.held[at]!;
    switch (step.call) {
      case 'alloc': {
        // Both throw for a destroyed pool.
        const block = this.alloc(pool, step.form);
        if (typeof block === 'string' || block === null) return block;
        held.push(block);
        const first = block.u32[0];
        block.u32[0] = block.index + 1;
        return { index: block.index, dma: block.dma, first };
      }
      case 'free': {
        if (held.length === 0) return 'nothing';
        const [block] = held.splice(step.block % held.length, 1);
        this.freed[at] = block;
        return this.free(pool, block!, step.withDma ? block!.dma : undefined);
      }
      case 'free badly': {
        const bad = this.#bad(step.how, at);
        return bad === null ? 'nothing' : this.free(pool, ...bad);
      }
      case 'trim':
        this.freed[at] = undefined;
        return pool.trim();
      case 'destroy':
        this.destroy(pool);
        return pool.statistics();
    }
  }

  #bad(how: BadFree, at: number): [DmaBlock | null, number?] | null {
    const block = this.held[at]!.at(-1);
    switch (how) {
      case 'twice': {
        const freed = this.freed[at];
        return freed === undefined || this.held[at]!.includes(freed) ? null : [freed];
      }
      case 'foreign': {
        const foreign = this.held.find((_, other) => other !== at)?.at(-1);
        return foreign === undefined ? null : [foreign];
      }
      case 'wrong address':
        return block === undefined ? null : [block, block.dma + 4];
      case 'null':
        return [null, 0x1000];
      case 'garbage':
        return [{} as DmaBlock, -1];
    }
  }

  /** Its observable state. */
  look(): unknown {
    return {
      text: this.device.readAttribute('pools'),
      pools: this.pools.map((pool) => pool?.statistics()),
      out: this.pools.map((pool) => (pool === null ? [] : [...indicesOf(pool)])),
      requests: this.memory.requests.map(({ size, node }) => ({ size, node })),
      live: this.memory.live.size,
      mask: this.device.dmaMask,
    };
  }

  abstract create(kind: 'plain' | 'node' | 'managed', geometry: Geometry): DmaPool | null;
  abstract alloc(pool: DmaPool, form: string): DmaBlock | string | null;
  abstract free(pool: DmaPool, block: DmaBlock | null, dma?: number): string;
  abstract destroy(pool: DmaPool): void;
  abstract coherent(size: number): CoherentMemory | null;
  abstract freeCoherent(memory: CoherentMemory): void;
  abstract mask(mask: number): boolean;
}

/** The error's code as the result, unless Linux returns NULL. */
function codeOf<T>(action: () => T): T | string | null {
  try {
    return action();
  } catch (error) {
    if (error instanceof DmaMaskError || error instanceof DmaSourceError) return null;
    assert.ok(error instanceof DmaError);
    return error.code;
  }
}

class KernelWorld extends World {
  readonly #managed = new Set<DmaPool>();
  readonly #handle = { dma: 0 };

  create(kind: 'plain' | 'node' | 'managed', [size, align, boundary]: Geometry): DmaPool | null {
    if (kind === 'plain') return dma_pool_create('pool', this.device, size, align, boundary);
    if (kind === 'node') return dma_pool_create_node('pool', this.device, size, align, boundary, 1);
    const pool = dmam_pool_create('pool', this.device, size, align, boundary);
    if (pool !== null) this.#managed.add(pool);
    return pool;
  }

  alloc(pool: DmaPool, form: string): DmaBlock | string | null {
    const block = codeOf(() => {
      if (form === 'zalloc') return dma_pool_zalloc(pool, GFP_KERNEL, this.#handle);
      const flags = form === 'kernel' ? GFP_KERNEL : form === 'atomic' ? GFP_ATOMIC : GFP_KERNEL | __GFP_ZERO;
      return dma_pool_alloc(pool, flags, this.#handle);
    });
    if (block !== null && typeof block !== 'string') assert.equal(this.#handle.dma, block.dma);
    return block;
  }

  free(pool: DmaPool, block: DmaBlock | null, dma?: number): string {
    // Only the statistics show whether the call failed.
    const before = pool.statistics().frees;
    dma_pool_free(pool, block, dma);
    return pool.statistics().frees > before ? 'freed' : 'refused';
  }

  destroy(pool: DmaPool): void {
    if (this.#managed.has(pool)) dmam_pool_destroy(pool);
    else dma_pool_destroy(pool);
  }

  coherent(size: number): CoherentMemory | null {
    return dma_alloc_coherent(this.device, size, this.#handle, GFP_KERNEL);
  }

  freeCoherent(memory: CoherentMemory): void {
    dma_free_coherent(this.device, memory.size, memory, memory.dma);
  }

  mask(mask: number): boolean {
    return dma_set_mask_and_coherent(this.device, mask) === 0;
  }
}

class ClassWorld extends World {
  create(kind: 'plain' | 'node' | 'managed', [size, align, boundary]: Geometry): DmaPool | null {
    const options = { size, align, boundary, ...(kind === 'node' ? { node: 1 } : {}) };
    try {
      if (kind === 'managed') return DmaPool.createManaged('pool', this.device, options);
      return DmaPool.create('pool', this.device, options);
    } catch (error) {
      assert.ok(error instanceof DmaError);
      return null;
    }
  }

  alloc(pool: DmaPool, form: string): DmaBlock | string | null {
    return codeOf(() => (form === 'zalloc' || form === 'zero' ? pool.tryAlloc({ zero: true }) : pool.tryAlloc()));
  }

  free(pool: DmaPool, block: DmaBlock | null, dma?: number): string {
    const action = (): void => {
      if (block !== null && dma !== undefined && dma !== block.dma) pool.freeAt(dma);
      else pool.free(block!);
    };
    return codeOf(action) === undefined ? 'freed' : 'refused';
  }

  destroy(pool: DmaPool): void {
    pool.destroy();
  }

  coherent(size: number): CoherentMemory | null {
    return codeOf(() => this.device.allocCoherent(size)) as CoherentMemory | null;
  }

  freeCoherent(memory: CoherentMemory): void {
    this.device.freeCoherent(memory);
  }

  mask(mask: number): boolean {
    return (
      codeOf(() => {
        this.device.setDmaMask(Math.min(mask, Number.MAX_SAFE_INTEGER));
      }) === undefined
    );
  }
}

const geometry = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom<Geometry>([96, 32, 4096], [16, 0, 0], [256, 256, 0], [700, 4, 2048], [5000, 0, 0]),
  },
  fc.constantFrom<Geometry>(
    [0, 0, 0],
    [64, 3, 0],
    [64, 0, 32],
    [64, 0, 100],
    [2 ** 31, 1, 0],
    [1.5, 1, 0],
    [NaN, 0, 0],
  ),
);
const pool = fc.nat(2);
const alloc = fc.record({
  call: fc.constant('alloc' as const),
  pool,
  form: fc.constantFrom('kernel' as const, 'atomic' as const, 'zero' as const, 'zalloc' as const),
});
const free = fc.record({ call: fc.constant('free' as const), pool, block: fc.nat(100), withDma: fc.boolean() });
const badFree = fc.record({
  call: fc.constant('free badly' as const),
  pool,
  how: fc.constantFrom<BadFree>('twice', 'foreign', 'wrong address', 'null', 'garbage'),
});
const create = fc.record({
  call: fc.constant('create' as const),
  kind: fc.constantFrom('plain' as const, 'node' as const, 'managed' as const),
  geometry,
});
const steps = fc
  .tuple(
    create,
    create,
    fc.array(
      fc.oneof<fc.WeightedArbitrary<Step>[]>(
        { weight: 40, arbitrary: alloc },
        { weight: 25, arbitrary: free },
        { weight: 8, arbitrary: badFree },
        { weight: 2, arbitrary: create },
        { weight: 1, arbitrary: fc.record({ call: fc.constant('destroy' as const), pool }) },
        { weight: 1, arbitrary: fc.constant({ call: 'detach' as const }) },
        {
          weight: 3,
          arbitrary: fc.record({ call: fc.constant('coherent' as const), size: fc.integer({ min: 1, max: 20_000 }) }),
        },
        { weight: 3, arbitrary: fc.record({ call: fc.constant('free coherent' as const), which: fc.nat(9) }) },
        {
          weight: 1,
          arbitrary: fc.record({ call: fc.constant('mask' as const), bits: fc.constantFrom(12, 24, 32, 40, 64) }),
        },
        { weight: 2, arbitrary: fc.record({ call: fc.constant('trim' as const), pool }) },
        {
          weight: 2,
          arbitrary: fc.record({ call: fc.constant('fail next' as const), times: fc.integer({ min: 1, max: 3 }) }),
        },
      ),
      { maxLength: 250, size: 'max' },
    ),
  )
  .map(([first, second, rest]): Step[] => [first, second, ...rest]);

/** Linux's lines: the first line of each message is one of them, or our note of suppressed messages. */
const LINES = [
  /^error two: dma_pool_destroy pool busy$/,
  /^error two: dma_pool_free pool, dma 0x[0-9a-f]{16} already free$/,
  /^error two: dma_pool_free pool, ([0-9a-f]{16}|\(null\)|\(efault\)) \(bad vaddr\)\/(0x[0-9a-f]{16}|\(null\))$/,
  /^error two: dma_pool_free pool, ([0-9a-f]{16}|\(null\)|\(efault\))\/(0x[0-9a-f]{16}|\(null\)) \(bad dma\)$/,
  /^warn two: page allocation failure: order:\d+, mode:0x[0-9a-f]+\([A-Z_|]+\), nodemask=\(null\)$/,
  /^error two: (dma_pool_alloc pool|dma_alloc_coherent) failed$/,
  /^warn two: WARNING: dmam_pool_destroy pool: it is not managed$/,
  / suppressed$/,
];

test('calls by Linux’s names and by the classes agree on random histories', () => {
  const seen = new Map<string, number>();
  fc.assert(
    fc.property(steps, (history) => {
      const kernel = new KernelWorld();
      const classes = new ClassWorld();
      for (const [i, step] of history.entries()) {
        const result = kernel.run(step);
        const where = `step ${String(i)}: ${JSON.stringify(step)}`;
        assert.deepEqual(result, classes.run(step), where);
        assert.deepEqual(kernel.look(), classes.look(), where);
        const key = `${step.call} ${typeof result === 'string' ? result : result === null ? 'null' : ''}`;
        seen.set(key, (seen.get(key) ?? 0) + 1);
      }
      for (const message of kernel.log.lines) {
        const [first] = message.split('\n');
        assert.ok(
          LINES.some((line) => line.test(first!)),
          first,
        );
      }
    }),
    { numRuns: 300, includeErrorInReport: true },
  );
  // The histories include every kind of line.
  for (const key of ['create null', 'create ', 'alloc ', 'alloc null', 'alloc ERR_DMAPOOL_DESTROYED', 'free freed']) {
    assert.ok((seen.get(key) ?? 0) > 0, `no history had: ${key}; seen: ${[...seen.keys()].join(', ')}`);
  }
  for (const key of ['free badly refused', 'coherent null', 'coherent ', 'destroy ']) {
    assert.ok((seen.get(key) ?? 0) > 0, `no history had: ${key}`);
  }
});
