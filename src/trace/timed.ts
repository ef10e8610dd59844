import type { DmaBlock, DmaPool } from '../index.ts';
import { type DecodedTrace, OPERATION } from './decode.ts';
import { Fleet } from './fleet.ts';

/** Replaces an operation that failed in the checking pass. */
const NOTHING = 255;

/** Replays a trace on fresh devices and pools, with only their calls in the loop, and measures the time. */
export class TimedPass {
  readonly #trace: DecodedTrace;
  readonly #needs: ReadonlyMap<string, number>;
  readonly #debug: boolean;
  readonly #operations: Uint8Array;

  /** @param failed 1 for each operation to omit. */
  constructor(trace: DecodedTrace, needs: ReadonlyMap<string, number>, debug: boolean, failed: Uint8Array) {
    this.#trace = trace;
    this.#needs = needs;
    this.#debug = debug;
    this.#operations = trace.operations.map((operation, i) => (failed[i] === 1 ? NOTHING : operation));
  }

  run(): number {
    const fleet = new Fleet(this.#trace, this.#needs, { debug: this.#debug });
    const held = new Array<DmaBlock | undefined>(this.#trace.slots).fill(undefined);
    const begin = performance.now();
    replayOperations(this.#operations, this.#trace, fleet, held);
    const elapsed = performance.now() - begin;
    fleet.close();
    return Math.round(elapsed * 1e6);
  }
}

// A separate function: the engine optimizes it once for all traces.
function replayOperations(
  operations: Uint8Array,
  { poolOf, slotOf }: DecodedTrace,
  fleet: Fleet,
  held: (DmaBlock | undefined)[],
): void {
  const pools = fleet.pools as DmaPool[];
  const count = operations.length;
  for (let i = 0; i < count; i++) {
    const index = poolOf[i]!;
    switch (operations[i]) {
      case OPERATION.alloc:
        held[slotOf[i]!] = pools[index]!.alloc();
        break;
      case OPERATION.zalloc:
        held[slotOf[i]!] = pools[index]!.alloc({ zero: true });
        break;
      case OPERATION.free:
        pools[index]!.free(held[slotOf[i]!]!);
        break;
      case OPERATION.create:
        fleet.create(index);
        break;
      case OPERATION.destroy:
        pools[index]!.destroy();
        break;
      default:
        // Omitted.
        break;
    }
  }
}
