/**
 * Random histories of pools on several devices over one coherent allocator (the source), compared with a simple model.
 *
 * A *strict* history has no callbacks and predicts every index. In a *loose* one the source and the log call back into
 * arbitrary operations, pools are shared, callers wait for blocks, and a faulty device writes to free blocks. There the model
 * is the set of held addresses, and the invariants hold between operations that are not nested.
 */
import * as blocks from './allocator-block-operations.ts';
import { check, checkEnd, freeHeld, whyNotFree } from './allocator-invariants.ts';
import * as pools from './allocator-pool-operations.ts';
import { HistoryState, type Subject } from './allocator-state.ts';
import { countOperations } from './operations.ts';

/** Maximum nesting of calls from the source and the log. */
const DEEPEST = 3;

/** The operations with their shares in percent. A strict history uses those before the waits. */
const OPERATIONS: readonly (readonly [share: number, run: (history: HistoryState, subject: Subject) => void])[] = [
  [3, pools.create],
  [27, blocks.alloc],
  [22, blocks.free],
  [6, blocks.allocBulk],
  [5, blocks.freeBulk],
  [5, blocks.badFree],
  [3, blocks.lookUp],
  [4, pools.trim],
  [3, blocks.reserve],
  [2, pools.destroy],
  [1, pools.reclaim],
  [1, pools.detach],
  [2, pools.setMask],
  [2, pools.useCoherent],
  [6, blocks.wait],
  [3, blocks.abort],
  [3, pools.corrupt],
  [1, pools.share],
  [1, blocks.freeThenAlloc],
];
const STRICT = 86;
const ALL = 100;

export class History {
  readonly #state: HistoryState;

  /** @param steps Maximum number of operations that are not nested. */
  constructor(seed: number, steps = Infinity) {
    this.#state = new HistoryState(seed, steps, (from) => {
      this.#callBack(from);
    });
    this.#state.source.onBack = (memory) => whyNotFree(this.#state, memory);
  }

  /** The most recent operations, for the report of a failure. */
  get lines(): readonly string[] {
    return this.#state.lines;
  }

  async run(): Promise<void> {
    const state = this.#state;
    try {
      for (let n = 0; n < state.steps; n++) {
        state.source.beginOperation();
        this.#act();
        if (state.subjects.some(({ waiting }) => waiting.size > 0)) await settle();
        check(state);
      }
      state.note('end');
      await this.#end();
    } catch (error) {
      const { message } = error instanceof Error ? error : new Error(String(error));
      const kind = state.isStrict ? 'strict' : 'loose';
      throw new Error(`${message}\nlast calls of the ${kind} history:\n  ${this.lines.join('\n  ')}`, { cause: error });
    }
  }

  /** Runs an operation in a call of user code, at random. */
  #callBack(from: string): void {
    const state = this.#state;
    if (state.depth === 0 || state.depth >= DEEPEST || !state.random.chance(state.calling)) return;
    state.nested++;
    state.note(`> called from the ${from}`);
    this.#act();
  }

  #act(): void {
    countOperations(1);
    const state = this.#state;
    let dice = state.random.below(state.isStrict ? STRICT : ALL);
    const subject = state.anySubject();
    state.depth++;
    try {
      if (subject === undefined) pools.create(state);
      else OPERATIONS.find(([share]) => (dice -= share) < 0)![1](state, subject);
    } finally {
      state.depth--;
    }
  }

  async #end(): Promise<void> {
    const state = this.#state;
    for (const subject of state.subjects) blocks.abortAll(subject);
    await settle();
    check(state);
    state.source.onCall = () => undefined;
    for (const subject of state.subjects) {
      if (subject.state === 'open' && !subject.shared) blocks.drain(state, subject);
    }
    for (const subject of state.subjects) {
      if (state.random.chance(0.5)) for (const held of [...subject.held.values()]) freeHeld(state, subject, held);
      pools.destroy(state, subject);
    }
    for (const device of state.devices) {
      pools.detach(state, { device });
      pools.reclaim(state, { device });
      pools.reclaim(state, { device });
    }
    await settle();
    check(state);
    checkEnd(state);
  }
}

/** Runs pending reactions of promises. */
async function settle(): Promise<void> {
  for (let n = 0; n < 4; n++) await Promise.resolve();
}
