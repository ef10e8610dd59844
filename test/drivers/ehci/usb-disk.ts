/**
 * A USB disk on packet level: endpoint 0, bulk in and out, bulk-only transport, a few SCSI commands. It keeps its data
 * toggles, so that a host with a wrong toggle loses data. In hostile mode it answers with wrong data.
 */
import type { Random } from '../../support/random.ts';

export const BLOCK = 512;
const CONTROL_PACKET = 64;
const BULK_PACKET = 512;
/** Number of excess bytes of a device that babbles. */
const BABBLE = 7;

/** The answer to a transaction. `data`: bytes of an IN; an OUT or SETUP is acknowledged. */
export type Answer =
  | { readonly kind: 'data'; readonly bytes: Uint8Array; readonly toggle: 0 | 1 }
  | { readonly kind: 'ack' | 'nak' | 'stall' | 'babble' | 'silence' };

const ACK: Answer = { kind: 'ack' };
const NAK: Answer = { kind: 'nak' };
const STALL: Answer = { kind: 'stall' };
const SILENCE: Answer = { kind: 'silence' };
const NOTHING = new Uint8Array(0);

const DEVICE = [18, 1, 0, 2, 0, 0, 0, 64, 0x34, 0x12, 0x78, 0x56, 0, 1, 1, 2, 3, 1];
const CONFIGURATION = [
  ...[9, 2, 32, 0, 1, 1, 0, 0xc0, 50],
  ...[9, 4, 0, 0, 2, 8, 6, 0x50, 0],
  ...[7, 5, 0x81, 2, 0, 2, 0],
  ...[7, 5, 0x02, 2, 0, 2, 0],
];
const INQUIRY = Buffer.from('\0\0\x05\x02\x1f\0\0\0MODEL   DISK            1.0 ', 'latin1');

interface Endpoint {
  halted: boolean;
  toggle: 0 | 1;
}

interface Control {
  readonly toHost: boolean;
  readonly setup: DataView;
  /** The answer; null: STALL. */
  readonly data: Uint8Array | null;
  sent: number;
}

/** The state of the bulk-only transport. */
type Phase =
  | { readonly name: 'command' }
  | { readonly name: 'in' | 'out'; readonly data: Uint8Array; at: number; readonly status: Uint8Array }
  | { readonly name: 'status'; readonly status: Uint8Array };

export class UsbDisk {
  readonly content: Uint8Array;
  /** Share of wrong answers, 0 to 1. */
  readonly hostility: number;
  readonly #random: Random;
  address = 0;
  #configured = false;
  #control: Control | null = null;
  #controlToggle: 0 | 1 = 0;
  readonly #in: Endpoint = { halted: false, toggle: 0 };
  readonly #out: Endpoint = { halted: false, toggle: 0 };
  #phase: Phase = { name: 'command' };
  /** Sense key and code of the last command that failed. */
  #sense: readonly [key: number, code: number] = [0, 0];
  /** True: a power-on that the next command reports. */
  #attention = true;

  constructor(random: Random, blocks = 256, hostility = 0) {
    this.#random = random;
    this.hostility = hostility;
    this.content = random.bytes(blocks * BLOCK);
  }

  /** The bus was reset (USB 2.0, 9.1.1.3). */
  reset(): void {
    this.address = 0;
    this.#configured = false;
    this.#control = null;
    this.#phase = { name: 'command' };
    for (const endpoint of [this.#in, this.#out]) Object.assign(endpoint, { halted: false, toggle: 0 });
  }

  /** The packet of a SETUP, or an OUT. */
  receive(address: number, endpoint: number, setup: boolean, bytes: Uint8Array, toggle: 0 | 1): Answer {
    if (address !== this.address) return SILENCE;
    const odd = this.#oddity();
    if (odd !== null) return odd;
    if (endpoint === 0) return setup ? this.#begin(bytes) : this.#controlOut(bytes);
    if (endpoint !== 2 || !this.#configured || setup) return SILENCE;
    return this.#bulkOut(bytes, toggle);
  }

  /** An IN of at most `room` bytes. */
  send(address: number, endpoint: number, room: number): Answer {
    if (address !== this.address) return SILENCE;
    const odd = this.#oddity();
    if (odd !== null) return odd;
    if (endpoint === 0) return this.#controlIn(room);
    if (endpoint !== 1 || !this.#configured) return SILENCE;
    return this.#bulkIn(room);
  }

  /** The host has the packet: its answer arrived. */
  acknowledged(endpoint: number): void {
    if (endpoint === 0) this.#controlToggle ^= 1;
    else this.#in.toggle ^= 1;
  }

  #oddity(): Answer | null {
    if (!this.#random.chance(this.hostility / 4)) return null;
    return { kind: this.#random.pick(['nak', 'nak', 'stall', 'babble', 'silence'] as const) };
  }

  /** The bytes, or changed ones in hostile mode. */
  #lie(bytes: Uint8Array): Uint8Array {
    const random = this.#random;
    if (!random.chance(this.hostility / 2)) return bytes;
    const copy = Uint8Array.from(bytes);
    for (let n = random.below(4); n > 0 && copy.length > 0; n--) copy[random.below(copy.length)] = random.next();
    return copy.subarray(0, random.chance(0.5) ? copy.length : random.below(copy.length + 1));
  }

  // ---- endpoint 0

  #begin(bytes: Uint8Array): Answer {
    if (bytes.length !== 8) return SILENCE;
    const setup = new DataView(Uint8Array.from(bytes).buffer);
    const toHost = (bytes[0]! & 0x80) !== 0;
    const answer = this.#request(bytes[0]!, bytes[1]!, setup.getUint16(2, true), setup.getUint16(4, true));
    const data = answer?.subarray(0, setup.getUint16(6, true)) ?? null;
    this.#control = { toHost, setup, data: data === null ? null : this.#lie(data), sent: 0 };
    this.#controlToggle = 1;
    return ACK;
  }

  /** The answer to a request; null if the request is unsupported. */
  #request(type: number, request: number, value: number, index: number): Uint8Array | null {
    if (type === 0x80 && request === 6) {
      if (value >> 8 === 1) return Uint8Array.from(DEVICE);
      if (value >> 8 === 2) return Uint8Array.from(CONFIGURATION);
      if (value === 0x300) return Uint8Array.of(4, 3, 9, 4);
      if (value >> 8 === 3) return Uint8Array.of(8, 3, 0x61, 0, 0x62, 0, 0x63, 0);
      return null;
    }
    if (type === 0xa1 && request === 0xfe) return Uint8Array.of(0);
    // These take effect at the end of the status stage.
    if (type === 0 && (request === 5 || request === 9)) return NOTHING;
    if (type === 2 && request === 1 && (index === 0x81 || index === 2)) return NOTHING;
    if (type === 0x21 && request === 0xff) return NOTHING;
    return null;
  }

  #controlIn(room: number): Answer {
    const control = this.#control;
    if (control === null) return STALL;
    const { data, toHost } = control;
    if (data === null) return STALL;
    if (!toHost) {
      this.#finishControl(control);
      return { kind: 'data', bytes: NOTHING, toggle: 1 };
    }
    const bytes = data.subarray(control.sent, control.sent + Math.min(CONTROL_PACKET, room));
    control.sent += bytes.length;
    return { kind: 'data', bytes, toggle: this.#controlToggle };
  }

  #controlOut(bytes: Uint8Array): Answer {
    const control = this.#control;
    if (control?.data === null || control === null) return STALL;
    // The status stage of a request to the host; the other direction takes no data here.
    if (control.toHost && bytes.length === 0) this.#control = null;
    return ACK;
  }

  #finishControl({ setup }: Control): void {
    const [type, request, value, index] = [
      setup.getUint8(0),
      setup.getUint8(1),
      setup.getUint16(2, true),
      setup.getUint16(4, true),
    ];
    this.#control = null;
    if (type === 0 && request === 5) this.address = value;
    if (type === 0 && request === 9) this.#configured = value === 1;
    if (type === 2 && request === 1) Object.assign(index === 0x81 ? this.#in : this.#out, { halted: false, toggle: 0 });
    if (type === 0x21) {
      this.#phase = { name: 'command' };
      this.#in.halted = this.#out.halted = false;
    }
  }

  // ---- bulk-only transport

  #bulkOut(bytes: Uint8Array, toggle: 0 | 1): Answer {
    if (this.#out.halted) return STALL;
    // A packet that it has already received: acknowledged and dropped (USB 2.0, 8.6.4).
    if (toggle !== this.#out.toggle) return ACK;
    this.#out.toggle ^= 1;
    const phase = this.#phase;
    if (phase.name === 'command') this.#command(bytes);
    else if (phase.name === 'out') {
      phase.data.set(bytes.subarray(0, phase.data.length - phase.at), phase.at);
      phase.at += bytes.length;
      if (phase.at >= phase.data.length) this.#phase = { name: 'status', status: phase.status };
    } else {
      this.#out.halted = true;
      return STALL;
    }
    return ACK;
  }

  #bulkIn(room: number): Answer {
    if (this.#in.halted) return STALL;
    const phase = this.#phase;
    const { toggle } = this.#in;
    if (phase.name === 'in') {
      const bytes = phase.data.subarray(phase.at, phase.at + Math.min(BULK_PACKET, room));
      phase.at += bytes.length;
      if (phase.at >= phase.data.length && bytes.length > 0) this.#phase = { name: 'status', status: phase.status };
      if (bytes.length === 0) this.#phase = { name: 'status', status: phase.status };
      return { kind: 'data', bytes: this.#lie(bytes), toggle };
    }
    if (phase.name !== 'status') return NAK;
    this.#phase = { name: 'command' };
    const status = this.#lie(phase.status);
    if (this.#random.chance(this.hostility / 10)) {
      return { kind: 'data', bytes: this.#random.bytes(13 + BABBLE), toggle };
    }
    return { kind: 'data', bytes: status, toggle };
  }

  #command(bytes: Uint8Array): void {
    if (bytes.length !== 31 || bytes[0] !== 0x55) {
      this.#in.halted = this.#out.halted = true;
      return;
    }
    const view = new DataView(Uint8Array.from(bytes).buffer);
    const length = view.getUint32(8, true);
    const toHost = (bytes[12]! & 0x80) !== 0;
    const answer = this.#scsi(bytes.subarray(15, 31), toHost ? length : 0);
    const failed = answer === null;
    const status = new Uint8Array(13);
    const csw = new DataView(status.buffer);
    csw.setUint32(0, 0x53425355, true);
    csw.setUint32(4, view.getUint32(4, true), true);
    const moved = failed ? 0 : toHost ? Math.min(answer.length, length) : length;
    csw.setUint32(8, length - moved, true);
    csw.setUint8(12, failed ? 1 : 0);
    if (length === 0) this.#phase = { name: 'status', status };
    else if (toHost) {
      // Fewer bytes than requested: a short packet, or none at all.
      const data = failed ? NOTHING : answer.subarray(0, length);
      this.#phase = { name: 'in', data, at: 0, status };
    } else {
      this.#phase = { name: 'out', data: failed ? new Uint8Array(length) : answer, at: 0, status };
    }
  }

  /** Data of a command, or the target of a write; null: it fails. */
  #scsi(cdb: Uint8Array, length: number): Uint8Array | null {
    const view = new DataView(Uint8Array.from(cdb).buffer);
    const fail = (key: number, code: number): null => {
      this.#sense = [key, code];
      return null;
    };
    if (cdb[0] === 0x03) {
      const sense = new Uint8Array(18);
      [sense[2], sense[12]] = this.#sense;
      this.#sense = [0, 0];
      return sense;
    }
    if (cdb[0] === 0x12) return INQUIRY;
    if (this.#attention) {
      this.#attention = false;
      return fail(6, 0x29);
    }
    if (cdb[0] === 0x00) return NOTHING;
    if (cdb[0] === 0x25) {
      const capacity = new DataView(new ArrayBuffer(8));
      capacity.setUint32(0, this.content.length / BLOCK - 1);
      capacity.setUint32(4, BLOCK);
      return new Uint8Array(capacity.buffer);
    }
    if (cdb[0] === 0x28 || cdb[0] === 0x2a) {
      const from = view.getUint32(2) * BLOCK;
      const to = from + view.getUint16(7) * BLOCK;
      if (to > this.content.length) return fail(5, 0x21);
      const blocks = this.content.subarray(from, to);
      return cdb[0] === 0x28 ? blocks.slice(0, length) : blocks;
    }
    if (cdb[0] === 0x35) return this.content.length % (2 * BLOCK) === 0 ? NOTHING : fail(5, 0x20);
    return fail(5, 0x20);
  }
}
