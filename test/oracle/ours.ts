/** One operation on our pools, and its answer: `module/operations.c` for one of our forms. */
import { Device, dmaBitMask } from 'dmapool';
import type { Answers } from './answers.ts';
import { FORMS, type FormName, type TestedPool } from './forms.ts';
import { CountedMemory } from './memory.ts';
import { ANYWHERE, LARGEST_PAGE, MOST_BLOCKS, type Operation, QUEUE, SLOTS, STACK, ZERO } from './operation.ts';
import type { PoolsView } from './stream.ts';

const REFUSED = 0xffff_ffff;
/** Bytes at each end of a block that are written to, and with what. */
const WRITTEN = 32;
const WRITTEN_WITH = 0x5a;
/** The kernel keeps a pool's name in 32 bytes, the last one zero. */
const NAME_BYTES = 31;
const ZEROS = Buffer.alloc(LARGEST_PAGE);
const encoder = new TextEncoder();

interface Slot {
  pool: TestedPool | null;
  size: number;
  align: number;
}

/** Our pools in one form, for one device. */
export class Ours implements PoolsView {
  readonly #form: FormName;
  readonly #memory: CountedMemory = new CountedMemory();
  readonly #slots: readonly Slot[] = Array.from({ length: SLOTS }, () => ({ pool: null, size: 0, align: 0 }));
  #device: Device;
  /** What the device logged since the last destroy. */
  #log: string[] = [];
  /** Pages that the last destroy kept. */
  #kept = 0;

  constructor(form: FormName) {
    this.#form = form;
    this.#device = this.#newDevice();
  }

  used(slot: number): boolean {
    return this.#slots[slot]!.pool !== null;
  }

  blocks(slot: number): number {
    return this.#slots[slot]!.pool?.blocks.length ?? 0;
  }

  asked(slot: number): Slot {
    return this.#slots[slot]!;
  }

  /** No pools, a new device, pages from number 0 on. */
  reset(): void {
    for (const slot of this.#slots) {
      slot.pool?.destroy();
      slot.pool = null;
    }
    this.#device.reclaim();
    this.#memory.reset();
    this.#kept = 0;
    this.#device = this.#newDevice();
  }

  operate(operation: Operation, answers: Answers): void {
    switch (operation.kind) {
      case 'create':
        this.#create(operation, answers);
        break;
      case 'alloc':
        this.#alloc(operation, answers);
        break;
      case 'free':
        this.#free(operation, answers);
        break;
      case 'destroy':
        this.#destroy(operation, answers);
        break;
      case 'text':
        answers.bytes(encoder.encode(this.#device.readAttribute('pools') ?? ''));
        break;
      case 'refuse':
        this.#memory.refusals = operation.count;
        break;
      case 'kept':
        answers.word(this.#kept);
        break;
    }
  }

  #create({ slot: number, name, ...asked }: Operation & { kind: 'create' }, answers: Answers): void {
    const slot = this.#slots[number]!;
    if (slot.pool !== null) {
      answers.word(0);
      return;
    }
    const { size, align, boundary } = asked;
    this.#memory.owner = number;
    slot.pool = FORMS[this.#form].create(name, this.#device, { size, align, boundary });
    slot.size = size;
    slot.align = align;
    answers.word(Number(slot.pool !== null));
  }

  #alloc({ slot: number, flags, count }: Operation & { kind: 'alloc' }, answers: Answers): void {
    const { pool, size } = this.#slots[number]!;
    if (pool === null) {
      answers.word(0);
      return;
    }
    this.#memory.owner = number;
    const taken = pool.take(Math.min(count, MOST_BLOCKS - pool.blocks.length), flags);
    if (taken === null) answers.word(REFUSED);
    for (const block of taken ?? []) {
      const dma = pool.dmaOf(block);
      const bytes = pool.bytesOf(block);
      let right = Number(this.#memory.isAt(dma, bytes));
      if ((flags & ZERO) !== 0 && Buffer.compare(bytes.subarray(0, size), ZEROS.subarray(0, size)) !== 0) right |= 2;
      answers.word(this.#memory.numberAt(dma));
      answers.word(dma % LARGEST_PAGE);
      answers.word(right);
      bytes.fill(WRITTEN_WITH, 0, Math.min(size, WRITTEN));
      bytes.fill(WRITTEN_WITH, Math.max(0, size - WRITTEN), size);
      pool.blocks.push(block);
    }
    answers.word(this.#memory.requests);
  }

  #free({ slot, order, count, position }: Operation & { kind: 'free' }, answers: Answers): void {
    const { pool } = this.#slots[slot]!;
    if (pool === null) {
      answers.word(0);
      return;
    }
    const going = take(pool.blocks, order, Math.min(count, pool.blocks.length), position);
    pool.give(going);
    answers.word(going.length);
  }

  #destroy({ slot: number }: Operation & { kind: 'destroy' }, answers: Answers): void {
    const slot = this.#slots[number]!;
    const { pool } = slot;
    if (pool === null) {
      answers.word(0);
      return;
    }
    slot.pool = null;
    this.#log = [];
    pool.destroy();
    for (const message of this.#log) answers.bytes(encoder.encode(this.#inWordsOfLinux(message, pool)));
    this.#kept = this.#memory.live(number);
    // Here its blocks may still be freed, and the last one takes the pages along.
    pool.give(pool.blocks);
    answers.word(this.#memory.live());
  }

  /** What the kernel would log for the message; its own first line in the form that speaks as the kernel does. */
  #inWordsOfLinux(message: string, { pool }: TestedPool): string {
    const [line = ''] = message.split('\n');
    if (FORMS[this.#form].wordsOfLinux) return line.slice(line.indexOf(': ') + 2);
    if (!line.includes(`${pool.name} busy`)) return line;
    return `dma_pool_destroy ${Buffer.from(pool.name).subarray(0, NAME_BYTES).toString()} busy`;
  }

  #newDevice(): Device {
    const say = (message: string): void => void this.#log.push(message);
    const log = { error: say, warn: say, info: say };
    return new Device({ name: 'oracle', memory: this.#memory, dmaMask: dmaBitMask(64), log });
  }
}

/** Takes so many blocks out of the list, in that order. */
function take<B>(blocks: B[], order: number, count: number, position: number): B[] {
  if (order === STACK) return blocks.splice(blocks.length - count).reverse();
  if (order === QUEUE) return blocks.splice(0, count);
  if (order !== ANYWHERE) throw new RangeError(`there is no order ${order}`);
  return Array.from({ length: count }, () => blocks.splice(position % blocks.length, 1)[0]!);
}
