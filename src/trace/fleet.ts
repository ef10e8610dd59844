import { ceilPowerOfTwo } from '../arguments.ts';
import {
  type CoherentAllocator,
  Device,
  type DeviceLog,
  dmaBitMask,
  DmaError,
  DmaPool,
  HeapMemory,
  PoolGeometry,
} from '../index.ts';
import { type DecodedTrace, OPERATION } from './decode.ts';

/** Room beyond the computed need, in bytes: what natural alignment may leave between allocations. */
const SLACK = 1024 * 1024;

const silent: DeviceLog = { error: () => undefined, warn: () => undefined, info: () => undefined };

/** The most bytes of memory for all devices: far beyond any recorded driver. A pool that wants more will not get it. */
const MEMORY_LIMIT = 1024 * 1024 * 1024;

/** What a fleet can be given besides its trace. */
export interface FleetOptions {
  /** Debug pools. */
  readonly debug?: boolean;
  /** Where the devices' messages go; nowhere by default. */
  readonly log?: DeviceLog;
  /** Puts something between the pools and their memory. */
  readonly wrap?: (memory: HeapMemory, device: string) => CoherentAllocator;
}

/** The devices of a trace, each with memory of its own, and its pools as far as they were created. */
export class Fleet {
  /** The pools of the trace by index; undefined before they are created. */
  readonly pools: (DmaPool | undefined)[];
  readonly #trace: DecodedTrace;
  readonly #devices = new Map<string, Device>();
  readonly #debug: boolean;

  constructor(trace: DecodedTrace, needs: ReadonlyMap<string, number>, options: FleetOptions = {}) {
    this.#trace = trace;
    this.#debug = options.debug === true;
    this.pools = new Array<DmaPool | undefined>(trace.pools.length).fill(undefined);
    let left = MEMORY_LIMIT;
    for (const name of trace.devices) {
      const limit = Math.min((needs.get(name) ?? 0) + SLACK, Math.max(left, SLACK));
      left -= limit;
      const heap = new HeapMemory({ limit });
      const memory = options.wrap?.(heap, name) ?? heap;
      const log = options.log ?? silent;
      this.#devices.set(name, new Device({ name, memory, dmaMask: dmaBitMask(64), log }));
    }
  }

  device(name: string): Device {
    return this.#devices.get(name)!;
  }

  /** Creates the pool of that index as the driver did. */
  create(index: number): void {
    const { device, name, size, align, boundary } = this.#trace.pools[index]!;
    const options = { size, align, boundary };
    // Without --debug nothing is said, so that DMAPOOL_DEBUG=1 still means what it means everywhere.
    this.pools[index] = DmaPool.create(name, this.device(device), this.#debug ? { ...options, debug: true } : options);
  }

  /** Gives all memory back, also that of blocks which the trace left out. */
  close(): void {
    for (const pool of this.pools) pool?.destroy();
    for (const device of this.#devices.values()) {
      device.detach();
      device.reclaim();
    }
  }
}

/** Bytes of memory that each device of a trace needs at most, if all its pools were at their peaks at once. */
export function memoryNeeds(trace: DecodedTrace): Map<string, number> {
  const active = new Float64Array(trace.pools.length);
  const peak = new Float64Array(trace.pools.length);
  trace.operations.forEach((operation, i) => {
    const pool = trace.poolOf[i]!;
    if (operation === OPERATION.free) active[pool]!--;
    else if (operation === OPERATION.alloc || operation === OPERATION.zalloc) {
      peak[pool] = Math.max(peak[pool]!, ++active[pool]!);
    }
  });
  const needs = new Map<string, number>();
  trace.pools.forEach(({ device, size, align, boundary }, i) => {
    try {
      const { allocation, blocksPerPage } = new PoolGeometry({ size, align, boundary });
      const bytes = Math.ceil(peak[i]! / blocksPerPage) * ceilPowerOfTwo(allocation);
      needs.set(device, (needs.get(device) ?? 0) + bytes);
    } catch (error) {
      // No pool can have this geometry; the replay will report that.
      if (!(error instanceof DmaError)) throw error;
    }
  });
  return needs;
}
