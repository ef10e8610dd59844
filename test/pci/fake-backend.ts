/** A PCI function in memory: each register reads what was written to it. It can behave as no real device model does. */
import { HeapMemory } from 'dmapool';
import type { BarInfo, InterruptBackend, InterruptKind, PciBackend } from 'dmapool/pci';

export class FakeInterrupts implements InterruptBackend {
  readonly kind: InterruptKind;
  readonly vectors: number;
  readonly level: boolean;
  fire: (vector: number) => void = () => undefined;
  /** The results of rearm. */
  rearmed: () => Promise<boolean> = () => Promise.resolve(false);
  closed = 0;
  readonly disarmed: number[] = [];
  take?: (vector: number) => boolean;

  constructor(kind: InterruptKind, vectors = 1) {
    this.kind = kind;
    this.vectors = vectors;
    this.level = kind === 'intx';
  }

  rearm(): Promise<boolean> {
    return this.rearmed();
  }

  listen(listener: (vector: number) => void): void {
    this.fire = listener;
  }

  disarm(vector: number): void {
    this.disarmed.push(vector);
  }

  close(): Promise<void> {
    this.closed++;
    return Promise.resolve();
  }
}

export class FakeBackend implements PciBackend {
  readonly address = '0000:00:05.0';
  readonly configSize: number;
  readonly bars: readonly BarInfo[];
  readonly memory = new HeapMemory();
  readonly controller = new AbortController();
  readonly removed: AbortSignal = this.controller.signal;
  readonly config: DataView;
  readonly regions = new Map<number, DataView>();
  /** The calls, in order. */
  readonly calls: string[] = [];
  /** True: reads return all ones, as for a missing device. */
  gone = false;
  interrupts: FakeInterrupts | null = null;
  resets: boolean | undefined;
  closeError: Error | null = null;

  constructor(configSize = 256) {
    this.configSize = configSize;
    this.config = new DataView(new ArrayBuffer(configSize));
    this.config.setUint32(0, 0x5678_1234, true);
    this.config.setUint32(8, 0x0108_0203, true);
    this.bars = [
      { index: 0, kind: 'memory', size: 4096, prefetchable: false, is64: true },
      { index: 3, kind: 'io', size: 32, prefetchable: false, is64: false },
    ];
    for (const { index, size } of this.bars) this.regions.set(index, new DataView(new ArrayBuffer(size)));
  }

  /** Writes a list of capabilities, `[id, offset]`, and the first word of each. */
  putCapabilities(...list: readonly (readonly [number, number])[]): void {
    this.config.setUint16(6, 0x10, true);
    this.config.setUint8(0x34, list[0]?.[1] ?? 0);
    for (const [i, [id, offset]] of list.entries()) {
      this.config.setUint8(offset, id);
      this.config.setUint8(offset + 1, list[i + 1]?.[1] ?? 0);
    }
  }

  readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    return Promise.resolve(this.#get(this.config, offset, width));
  }

  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.calls.push(`config ${String(offset)} = ${String(value)}`);
    set(this.config, offset, width, value);
    return Promise.resolve();
  }

  read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    return Promise.resolve(this.#get(this.regions.get(bar)!, offset, width));
  }

  read64(bar: number, offset: number): Promise<bigint> {
    return Promise.resolve(this.gone ? 2n ** 64n - 1n : this.regions.get(bar)!.getBigUint64(offset, true));
  }

  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    set(this.regions.get(bar)!, offset, width, value);
  }

  write64(bar: number, offset: number, value: bigint): void {
    this.regions.get(bar)!.setBigUint64(offset, value, true);
  }

  flush(): Promise<void> {
    this.calls.push('flush');
    return Promise.resolve();
  }

  openInterrupts(kinds: readonly InterruptKind[]): Promise<InterruptBackend | null> {
    const { interrupts } = this;
    return Promise.resolve(interrupts !== null && kinds.includes(interrupts.kind) ? interrupts : null);
  }

  reset(): Promise<boolean> {
    if (this.resets === true) new Uint8Array(this.config.buffer).fill(0, 4);
    return Promise.resolve(this.resets ?? false);
  }

  close(): Promise<void> {
    this.calls.push('close');
    if (this.closeError !== null) return Promise.reject(this.closeError);
    return Promise.resolve();
  }

  #get(view: DataView, offset: number, width: 8 | 16 | 32): number {
    if (this.gone) return 2 ** width - 1;
    if (width === 8) return view.getUint8(offset);
    return width === 16 ? view.getUint16(offset, true) : view.getUint32(offset, true);
  }
}

function set(view: DataView, offset: number, width: 8 | 16 | 32, value: number): void {
  if (width === 8) view.setUint8(offset, value);
  else if (width === 16) view.setUint16(offset, value, true);
  else view.setUint32(offset, value, true);
}
