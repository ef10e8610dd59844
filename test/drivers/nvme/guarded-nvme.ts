/**
 * The fake controller under guard: it keeps each address from the fetch of the command to its completion, and writes to
 * the buffers of reads meanwhile. A command is complete when an entry with its identifier and the right phase is in its
 * completion queue, whatever wrote the entry.
 */
import { GuardedBackend, type GuardedOptions } from '../../guard/guarded-backend.ts';
import { GuardedMemory } from '../../guard/guarded-memory.ts';
import type { FaultPlan } from '../../guard/fault-plan.ts';
import { type Grant, RelentlessDma } from '../../guard/relentless-dma.ts';
import { type Completion, FakeNvme, type Piece, type SeenCommand } from './fake-nvme.ts';

const DOORBELLS = 0x1000;

/** Entries of a completion queue that the host has not taken. */
interface Untaken {
  readonly cids: number[];
  /** Identifiers that were completed before the controller had such a command: the host may have the entry already. */
  readonly early: Set<number>;
  /** The host's head, from its doorbell. */
  head: number;
  /** True: more entries were written than the queue has room for, and the phases are meaningless. */
  isOverrun: boolean;
}

export class RelentlessNvme extends FakeNvme {
  readonly guarded: GuardedMemory = new GuardedMemory(this.memory);
  readonly dma: RelentlessDma = new RelentlessDma(this.guarded);
  /** Number of bytes from one doorbell to the next. */
  stride = 4;
  /** By `queue << 16 | identifier`. */
  readonly #commands = new Map<number, { readonly command: SeenCommand; readonly grants: readonly Grant[] }>();
  readonly #queues = new Map<string, Grant>();
  readonly #untaken = new Map<number, Untaken>();

  constructor(blocks?: number) {
    super(blocks);
    this.onFetch = (command) => {
      this.#learn(command);
    };
    this.onQueue = (kind, id, place) => {
      this.#onQueue(kind, id, place);
    };
  }

  /** True while it is a bus master and present. */
  get reachesMemory(): boolean {
    return this.isBusMaster && !this.dma.isCutOff;
  }

  /** Identifiers of its commands of a queue. */
  inFlight(queue: number): number[] {
    return [...this.#commands.keys()].filter((key) => key >>> 16 === queue).map((key) => key & 0xffff);
  }

  /** Number of entries that a completion queue has room for, according to the host's doorbell. */
  room(queue: number): number {
    const entries = this.completionEntries(queue);
    return Math.max(0, entries - 1 - (this.#untaken.get(queue)?.cids.length ?? entries));
  }

  /** True if an entry with the wrong phase cannot be taken for one of another round. */
  mayMistakePhase(queue: number): boolean {
    const untaken = this.#untaken.get(queue);
    return untaken !== undefined && !untaken.isOverrun && untaken.cids.length < this.completionEntries(queue) - 1;
  }

  #onQueue(kind: 'submission' | 'completion', id: number, place: Piece | null): void {
    const name = `${kind} queue ${String(id)}`;
    const before = this.#queues.get(name);
    if (before !== undefined) this.dma.release(before);
    if (kind === 'completion') this.#untaken.delete(id);
    if (place === null) return;
    if (kind === 'completion') this.#untaken.set(id, { cids: [], early: new Set(), head: 0, isOverrun: false });
    this.#queues.set(name, this.dma.learn(name, place[0], place[1], kind === 'completion' ? 'write' : 'read'));
  }

  #learn(command: SeenCommand): void {
    const { queue, opcode, cid, prp1 } = command;
    // Completed before its fetch: the device no longer owns its addresses.
    if (this.#untaken.get(queue)?.early.delete(cid) === true) return;
    const name = `queue ${String(queue)} command 0x${cid.toString(16)} opcode 0x${opcode.toString(16)}`;
    const { data, lists } = this.layout(command);
    const access = (opcode & 3) === 1 ? 'read' : 'write';
    const isRead = queue > 0 && opcode === 2;
    const grants = lists.map(([dma, bytes]) => this.dma.learn(`${name}, list`, dma, bytes, 'read'));
    for (const [dma, bytes] of data) grants.push(this.dma.learn(name, dma, bytes, access, isRead));
    // A command of unknown transfer length transfers at least a dword. The guard checks the memory of a queue at its
    // creation; the features used here are a dword of the command.
    const hasNone = queue === 0 && [0x01, 0x05, 0x09, 0x0a].includes(opcode);
    if (data.length === 0 && (opcode & 3) !== 0 && !hasNone) grants.push(this.dma.learn(name, prp1, 4, access));
    this.#commands.set((queue << 16) | cid, { command, grants });
  }

  /** False once a command is complete: its addresses must not be used any more. */
  has(command: SeenCommand): boolean {
    return this.#commands.get((command.queue << 16) | command.cid)?.command === command;
  }

  override post(id: number, completion: Completion): boolean {
    if (!this.reachesMemory) return false;
    const untaken = this.#untaken.get(id);
    if (completion.wrongPhase !== true && untaken !== undefined) {
      const { cid } = completion;
      untaken.cids.push(cid);
      if (untaken.cids.length >= this.completionEntries(id)) {
        untaken.isOverrun = true;
        untaken.cids.shift();
      }
      const key = (id << 16) | cid;
      for (const grant of this.#commands.get(key)?.grants ?? []) this.dma.release(grant);
      if (!this.#commands.delete(key)) untaken.early.add(cid);
    }
    return super.post(id, completion);
  }

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (offset >= DOORBELLS) {
      // It cannot fetch commands.
      if (!this.reachesMemory) return;
      const number = (offset - DOORBELLS) / this.stride;
      if (number % 2 === 1) this.#onTaken((number - 1) / 2, value);
    }
    super.write(bar, offset, width, value);
  }

  #onTaken(id: number, head: number): void {
    const untaken = this.#untaken.get(id);
    const entries = this.completionEntries(id);
    if (untaken === undefined || entries === 0) return;
    untaken.cids.splice(0, (head - untaken.head + entries) % entries);
    untaken.head = head;
  }

  override halt(): void {
    super.halt();
    this.dma.reset();
    this.#commands.clear();
    this.#queues.clear();
    this.#untaken.clear();
  }

  /** Its function, for `PciFunction.open`. */
  guard(
    plan: FaultPlan,
    options: Pick<GuardedOptions, 'isolates' | 'settles'> & { readonly resets: boolean },
  ): GuardedBackend {
    const { resets, ...rest } = options;
    const reset = (): void => {
      this.resetFunction();
    };
    const fake = { backend: this, isBusMaster: () => this.isBusMaster, ...(resets ? { reset } : {}) };
    return new GuardedBackend({ fake, memory: this.guarded, dma: this.dma, plan, ...rest });
  }
}
