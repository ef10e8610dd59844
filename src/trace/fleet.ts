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

/** Bytes beyond the computed need, for gaps between naturally aligned allocations. */
const SLACK = 1024 * 1024;

const silent: DeviceLog = { error: () => undefined, warn: () => undefined, info: () => undefined };

/** Maximum bytes of memory of all devices: far more than any recorded driver uses. */
const MEMORY_LIMIT = 1024 * 1024 * 1024;

/** Options of a {@link Fleet}. */
export interface FleetOptions {
  /** Create the pools in debug mode. */
  readonly debug?: boolean;
  /** Log of the devices. Default: no output. */
  readonly log?: DeviceLog;
  /** Wraps the memory of a device. */
  readonly wrap?: (memory: HeapMemory, device: string) => CoherentAllocator;
}

/** The devices of a trace, each with its own memory, and the pools created so far. */
export class Fleet {
  /** Pools by index in the trace; undefined before creation. */
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

  /** Creates the pool of this index with the driver's arguments. */
  create(index: number): void {
    const { device, name, size, align, boundary } = this.#trace.pools[index]!;
    const options = { size, align, boundary };
    // Without `debug` the option is omitted, so that DMAPOOL_DEBUG=1 applies.
    this.pools[index] = DmaPool.create(name, this.device(device), this.#debug ? { ...options, debug: true } : options);
  }

  /** Frees all memory, including that of blocks which the trace does not free. */
  close(): void {
    for (const pool of this.pools) pool?.destroy();
    for (const device of this.#devices.values()) {
      device.detach();
      device.reclaim();
    }
  }
}

/** Maximum bytes of memory of each device of a trace: the sum of its pools' peaks. */
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
      // The geometry is invalid; the replay reports it.
      if (!(error instanceof DmaError)) throw error;
    }
  });
  return needs;
}
