/**
 * Format of the test packets, which lets the receiver detect loss and corruption:
 *
 *     0   destination, source      6 bytes each
 *     12  type 0x88b5              for experiments (IEEE 802, 9.2)
 *     14  stream                   2 bytes; this field and the following are little-endian
 *     16  sequence number          4 bytes, from 0
 *     20  checksum                 4 bytes, over stream, sequence, length and payload
 *     24  payload                  pseudo-random, seeded with stream and sequence
 */
import { DmaArgumentError } from 'dmapool';
import { checkInteger, isInstance } from 'dmapool/arguments';
import { E1000, E1000Error, type Packet } from 'dmapool/drivers/e1000';
import { setImmediate as turn } from 'node:timers/promises';

/** Minimum and maximum bytes of a packet: Ethernet's limits without the checksum. */
export const MIN_BYTES = 60;
export const MAX_BYTES = 1514;

const TYPE_OFFSET = 12;
const TYPE_WORD = 0xb588;
const PAYLOAD_WORD = 6;

/** One step of Marsaglia's xorshift with the triple 13, 17, 5: a permutation of period 2^32 - 1 on non-zero numbers. */
function scramble(x: number): number {
  x ^= x << 13;
  x ^= x >>> 17;
  return x ^ (x << 5);
}

/** Seed of a packet's random numbers; never 0. */
function seedOf(stream: number, sequence: number): number {
  return (Math.imul(sequence + 1, 0x9e37_79b1) ^ Math.imul(stream + 1, 0x85eb_ca6b)) | 1;
}

/** One step of the checksum (FNV-1a on words): packets that differ in one word have different checksums. */
function mix(check: number, word: number): number {
  return Math.imul(check ^ word, 0x0100_0193);
}

/** Computes a packet's checksum. */
function checkOf(packet: Packet): number {
  const { words, bytes, length } = packet;
  let check = mix(mix(mix(0x811c_9dc5, words[3]! >>> 16), words[4]!), length);
  const whole = length >> 2;
  for (let i = PAYLOAD_WORD; i < whole; i++) check = mix(check, words[i]!);
  for (let i = whole << 2; i < length; i++) check = mix(check, bytes[i]!);
  return check;
}

/** Size of a packet of a stream in bytes: uniformly distributed from `least` to `most`. */
export function sizeOf(stream: number, sequence: number, least: number, most: number): number {
  const random = scramble(scramble(seedOf(stream, sequence))) >>> 0;
  return least + (random % (most - least + 1));
}

/** Fills a packet with `length` bytes. @param stream 0 to 65535. @param sequence 0 to 2^32-1. */
export function fillPacket(
  packet: Packet,
  length: number,
  stream: number,
  sequence: number,
  destination: Uint8Array,
  source: Uint8Array,
): void {
  const { words, bytes } = packet;
  for (let i = 0; i < 6; i++) {
    bytes[i] = destination[i]!;
    bytes[6 + i] = source[i]!;
  }
  words[TYPE_OFFSET / 4] = TYPE_WORD | (stream << 16);
  words[4] = sequence;
  const end = (length + 3) >> 2;
  let random = seedOf(stream, sequence);
  for (let i = PAYLOAD_WORD; i < end; i++) {
    random = scramble(random);
    words[i] = random;
  }
  packet.length = length;
  words[5] = checkOf(packet);
}

/** Result of a {@link TrafficMeter}. */
export interface TrafficReport {
  /** Intact packets. */
  readonly packets: number;
  /** Their bytes. */
  readonly bytes: number;
  /** Sequence numbers not received. */
  readonly lost: number;
  /** Packets with a wrong checksum or another format. */
  readonly changed: number;
  /** Packets received after one with a higher number. */
  readonly late: number;
  /** Packets received a second time. */
  readonly repeated: number;
}

/**
 * Checks the received packets of one stream.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   netdevs: [0, 1].map((i) => ({ type: 'hubport', id: `net${i}`, hubid: 0 })),
 *   devices: [0, 1].map((i) => ({ driver: 'e1000', id: `nic${i}`, netdev: `net${i}` })),
 * });
 * const a = await E1000.open(await machine.open('nic0'));
 * const b = await E1000.open(await machine.open('nic1'));
 * await generate(a, { packets: 100 });
 * const meter = new TrafficMeter();
 * const batch: Packet[] = [];
 * while (meter.packets < 100 && (await b.waitForPackets({ timeout: 5000 }))) {
 *   const count = b.receive(batch, 64);
 *   for (let i = 0; i < count; i++) meter.count(batch[i]!);
 *   b.packets.freeBatch(batch, 0, count);
 * }
 * console.log(meter.report(100).lost); // 0
 * await machine.close();
 * ```
 */
export class TrafficMeter {
  readonly #stream: number;
  #packets = 0;
  #bytes = 0;
  #next = 0;
  #changed = 0;
  #late = 0;
  #repeated = 0;
  /** Missing numbers below `#next`: ranges from `starts[i]` up to, not including, `ends[i]`, ascending. */
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  /** @param stream The `stream` option of `generate`. */
  constructor(stream = 0) {
    checkInteger('stream', stream, 0, 0xffff);
    this.#stream = stream;
  }

  /** Checks `packet`. Returns true if it is intact and of this stream. */
  count(packet: Packet): boolean {
    const { words, length } = packet;
    const ours = length >= MIN_BYTES && words[3] === (TYPE_WORD | (this.#stream << 16)) >>> 0;
    if (!ours || words[5] !== checkOf(packet) >>> 0) {
      this.#changed++;
      return false;
    }
    const sequence = words[4]!;
    this.#packets++;
    this.#bytes += length;
    if (sequence < this.#next) {
      if (this.#fillGap(sequence)) this.#late++;
      else this.#repeated++;
      return true;
    }
    if (sequence > this.#next) {
      this.#starts.push(this.#next);
      this.#ends.push(sequence);
    }
    this.#next = sequence + 1;
    return true;
  }

  /** Removes a number from the missing ones. Returns false if it was not missing. */
  #fillGap(sequence: number): boolean {
    const i = this.#ends.findIndex((end) => sequence < end);
    const start = this.#starts[i];
    const end = this.#ends[i];
    if (start === undefined || end === undefined || sequence < start) return false;
    // The remaining parts of the gap, before and after the number.
    const rest = [
      [start, sequence],
      [sequence + 1, end],
    ].filter(([from, to]) => from! < to!);
    this.#starts.splice(i, 1, ...rest.map(([from]) => from!));
    this.#ends.splice(i, 1, ...rest.map(([, to]) => to!));
    return true;
  }

  /** Intact packets. */
  get packets(): number {
    return this.#packets;
  }

  /**
   * Returns the counts so far.
   * @param sent Number of packets sent, if the sender has finished: packets missing at the end then count as lost.
   */
  report(sent: number = this.#next): TrafficReport {
    checkInteger('sent', sent, 0, Number.MAX_SAFE_INTEGER);
    return {
      packets: this.#packets,
      bytes: this.#bytes,
      lost: Math.max(0, sent - (this.#packets - this.#repeated)),
      changed: this.#changed,
      late: this.#late,
      repeated: this.#repeated,
    };
  }
}

/** Milliseconds without progress after which a program gives up. */
const PROGRESS_TIMEOUT = 5000;

/** Aborts a program that makes no progress. */
export class Watchdog {
  readonly #address: string;
  #since = performance.now();

  constructor(address: string) {
    this.#address = address;
  }

  /** Records progress. */
  progress(): void {
    this.#since = performance.now();
  }

  /** Turns the event loop. @throws {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT` after 5 seconds without progress. */
  async turn(what: string): Promise<void> {
    if (performance.now() - this.#since > PROGRESS_TIMEOUT) {
      throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', this.#address, `${what} for ${String(PROGRESS_TIMEOUT)} ms`);
    }
    await turn();
  }
}

/** Checks an argument. @throws `DmaArgumentError` unless `value` is an E1000. */
export function checkCard(argument: string, value: unknown): asserts value is E1000 {
  if (!isInstance(value, E1000)) throw new DmaArgumentError(argument, value, 'an E1000');
}
