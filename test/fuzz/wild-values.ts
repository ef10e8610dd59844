/** Random arguments, valid and invalid. Some have callbacks that throw or call a pool. */
import { Device, type DmaBlock, DmaPool, HeapMemory } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import type { Random } from '../support/random.ts';

/** The error that callbacks in arguments throw. */
export class OwnError extends Error {}

const OPTION_KEYS = `
  size align boundary maxBlocks node debug initOnAlloc initOnFree name path parent memory dmaMask numaNode log
  device openRegion magazine signal timeout zero grow limit step pageSize buffer byteOffset dma length index
  aling
`
  .trim()
  .split(/\s+/);
const HANDLE_KEYS = `
  dmapool name size align boundary pageSize node maxBlocks magazine device mostMagazine control buffers pages
  debug initOnAlloc initOnFree
`
  .trim()
  .split(/\s+/);

function ignore(): void {
  // A callback without an effect.
}

function own(): never {
  throw new OwnError('a callback');
}

export class WildValues {
  readonly memory: HeapMemory = new HeapMemory({ limit: 64 * 4096 });
  readonly device: Device;
  readonly pools: readonly DmaPool[];
  readonly block: DmaBlock;
  readonly #handle: object;
  readonly #values: readonly unknown[];
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
    const log = { error: ignore, warn: ignore, info: ignore };
    const device = new Device({ name: 'wild', memory: this.memory, log });
    const plain = DmaPool.create('plain', device, { size: 64, maxBlocks: 40 });
    const debug = DmaPool.create('debug', device, { size: 100, debug: true, maxBlocks: 20 });
    const shared = DmaPool.create('shared', device, { size: 64, maxBlocks: 100 });
    const { handle } = sharePool(shared);
    plain.freeIndex(plain.allocIndex());
    const block = plain.alloc();
    const { index, dma } = block;
    const blocks = [block, debug.alloc(), shared.alloc()];
    const memory = device.allocCoherent(100);
    this.#values = [plain, debug, shared, device, this.memory, ...blocks, index, dma, handle, memory, plain.geometry];
    this.#handle = handle;
    this.device = device;
    this.pools = [plain, debug, shared];
    this.block = block;
  }

  any(depth = 0): unknown {
    const random = this.#random;
    switch (random.below(depth > 1 ? 4 : 13)) {
      case 0:
        return random.pick([undefined, null, true, false, NaN, -0, -1, 0.5, Infinity, 1n, 0n, Symbol('wild')]);
      case 1:
        return random.pick([0, 1, 2, 3, 16, 64, 4096, 2 ** 29, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53]);
      case 2:
        return random.pick(['', '0', 'wild', 'kernel', 'atomic', '\0', '__proto__', 'x'.repeat(5000)]);
      case 3:
      case 4:
        return random.pick(this.#values);
      case 5:
        return random.pick([{}, [], Object.create(null) as object, new Date(0), /wild/, new Map(), ignore, own]);
      case 6:
        return this.#array();
      case 7:
        return this.#proxy();
      case 8:
        return this.#signal();
      case 9:
        return [this.any(depth + 1), this.any(depth + 1)];
      default:
        return this.#options(depth);
    }
  }

  #array(): unknown {
    const random = this.#random;
    const length = random.below(8);
    const detached = new Int32Array(4);
    if (random.chance(0.2)) structuredClone(detached, { transfer: [detached.buffer] });
    const plain = Int32Array.from({ length }, () => random.below(40) - 2);
    return random.pick<unknown>([
      plain,
      detached,
      new Float64Array(length),
      new Uint8Array(length),
      new Int32Array(new SharedArrayBuffer(16)),
      new DataView(new ArrayBuffer(length)),
      Object.create(Int32Array.prototype) as object,
      Object.freeze([...plain]),
      this.#callingArray(plain),
      this.#callingArray(new Float64Array(length)),
    ]);
  }

  /** Returns an array that calls a pool or throws when it is accessed. */
  #callingArray(target: Int32Array | Float64Array): unknown {
    const pool = this.#random.pick(this.pools);
    const random = this.#random;
    const call = (): void => {
      if (random.chance(0.2)) throw new OwnError('the array');
      if (random.chance(0.5)) pool.tryAllocIndex();
    };
    return new Proxy(target, {
      get: (of, key) => {
        if (key !== 'length') call();
        return Reflect.get(of, key, of) as unknown;
      },
      set: (of, key, value) => {
        call();
        return Reflect.set(of, key, value, of);
      },
    });
  }

  #proxy(): unknown {
    const random = this.#random;
    const { proxy, revoke } = Proxy.revocable(random.pick<object>([{}, [], ignore, this.device]), {});
    if (random.chance(0.5)) {
      revoke();
      return proxy;
    }
    return new Proxy({}, { get: own, has: own, ownKeys: own, getPrototypeOf: own });
  }

  /** Returns a signal with methods that may throw. */
  #signal(): unknown {
    const random = this.#random;
    const controller = new AbortController();
    const { signal } = controller;
    if (random.chance(0.3)) controller.abort(new OwnError('aborted'));
    if (random.chance(0.3)) Object.defineProperty(signal, 'addEventListener', { value: own });
    if (random.chance(0.3)) Object.defineProperty(signal, 'removeEventListener', { value: own });
    if (random.chance(0.1)) Object.defineProperty(signal, 'throwIfAborted', { value: own });
    return signal;
  }

  #options(depth: number): object {
    const random = this.#random;
    const options: Record<string, unknown> = {};
    for (let n = random.below(5); n > 0; n--) options[random.pick(OPTION_KEYS)] = this.any(depth + 1);
    if (random.chance(0.5)) options['size'] = 64;
    if (random.chance(0.3)) options['name'] = 'wild';
    // A valid handle with one random field.
    if (random.chance(0.15)) return { ...this.#handle, [random.pick(HANDLE_KEYS)]: this.any(depth + 1) };
    return options;
  }
}
