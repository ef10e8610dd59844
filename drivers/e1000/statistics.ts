/** Statistics counters of the card (manual, 13.7). Reading clears them, so this class keeps the totals. */
import type { Bar } from 'dmapool/pci';

/** Offsets of the 32-bit counters. */
const COUNTERS = {
  crcErrors: 0x4000,
  alignmentErrors: 0x4004,
  symbolErrors: 0x4008,
  receiveErrors: 0x400c,
  missedPackets: 0x4010,
  collisions: 0x4028,
  sequenceErrors: 0x4038,
  lengthErrors: 0x4040,
  goodPacketsReceived: 0x4074,
  broadcastPacketsReceived: 0x4078,
  multicastPacketsReceived: 0x407c,
  goodPacketsTransmitted: 0x4080,
  noBuffers: 0x40a0,
  undersize: 0x40a4,
  fragments: 0x40a8,
  oversize: 0x40ac,
  jabber: 0x40b0,
  packetsReceived: 0x40d0,
  packetsTransmitted: 0x40d4,
} as const;

/** Offsets of the 64-bit counters of good octets. Each is the offset of the low half, which is read first. */
const WIDE_COUNTERS = { goodBytesReceived: 0x4088, goodBytesTransmitted: 0x4090 } as const;

type CounterName = keyof typeof COUNTERS | keyof typeof WIDE_COUNTERS;

/** Counts of the card since the driver was opened. Bytes include the Ethernet checksum, 4 bytes per packet. */
export interface E1000Counters extends Readonly<Record<CounterName, number>> {
  /** MPC: packets lost because the card's internal memory was full. */
  readonly missedPackets: number;
  /** RNBC: packets that arrived while no descriptor was free. The card buffers some of them internally. */
  readonly noBuffers: number;
}

/** Counts of the card and the driver since the driver was opened. */
export interface E1000Statistics extends E1000Counters {
  /** Packets that `receive` returned. */
  readonly received: number;
  /** Their bytes. */
  readonly receivedBytes: number;
  /** Received packets that were dropped: damaged, too long, or spread over several buffers. */
  readonly dropped: number;
  /** Number of times that `receive` left a packet in the ring because no buffer was free. */
  readonly starved: number;
  /** Packets that the card reported as transmitted. */
  readonly sent: number;
  /** Their bytes. */
  readonly sentBytes: number;
  /** Packets that the card abandoned after collisions. */
  readonly failed: number;
}

/** State of a 32-bit counter. */
interface Narrow {
  readonly name: keyof typeof COUNTERS;
  readonly offset: number;
  /**
   * True if reading clears the counter, as the manual specifies. False for a counter that QEMU does not clear (MPC,
   * RNBC). Undefined until the first value other than 0, which is read twice to find out.
   */
  clears: boolean | undefined;
  /** Last value read from a counter that reading does not clear. */
  last: number;
}

/** Accumulates the counters. */
export class Counters {
  readonly #bar: Bar;
  readonly #totals: Record<CounterName, number>;
  readonly #narrow: readonly Narrow[];
  #reading: Promise<E1000Counters> | null = null;

  constructor(bar: Bar) {
    this.#bar = bar;
    const names = [...Object.keys(COUNTERS), ...Object.keys(WIDE_COUNTERS)] as CounterName[];
    this.#totals = Object.fromEntries(names.map((name) => [name, 0])) as Record<CounterName, number>;
    const entries = Object.entries(COUNTERS) as [keyof typeof COUNTERS, number][];
    this.#narrow = entries.map(([name, offset]) => ({ name, offset, clears: undefined, last: 0 }));
  }

  /** Reads all counters and resets the totals: counts from before the driver was opened are discarded. */
  async clear(): Promise<void> {
    await this.read();
    for (const name of Object.keys(this.#totals) as CounterName[]) this.#totals[name] = 0;
  }

  /** Reads all counters in one batch of pipelined reads. Concurrent calls share one batch. */
  read(): Promise<E1000Counters> {
    return (this.#reading ??= this.#read().finally(() => {
      this.#reading = null;
    }));
  }

  async #read(): Promise<E1000Counters> {
    const { goodBytesReceived, goodBytesTransmitted } = WIDE_COUNTERS;
    await Promise.all([
      ...this.#narrow.map((counter) => this.#addNarrow(counter)),
      this.#addWide('goodBytesReceived', goodBytesReceived),
      this.#addWide('goodBytesTransmitted', goodBytesTransmitted),
    ]);
    return { ...this.#totals };
  }

  async #addNarrow(counter: Narrow): Promise<void> {
    const { name, offset } = counter;
    let value = await this.#bar.read32(offset);
    if (counter.clears === undefined) {
      if (value === 0) return;
      const again = await this.#bar.read32(offset);
      counter.clears = again < value;
      value = counter.clears ? value + again : again;
    }
    this.#totals[name] += value - counter.last;
    if (!counter.clears) counter.last = value;
  }

  async #addWide(name: keyof typeof WIDE_COUNTERS, offset: number): Promise<void> {
    // Reading the upper half clears both, so it comes second (13.7).
    const [lower, upper] = await Promise.all([this.#bar.read32(offset), this.#bar.read32(offset + 4)]);
    this.#totals[name] += lower + upper * 0x1_0000_0000;
  }
}
