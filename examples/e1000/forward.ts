/**
 * A forwarder, like ixy-fwd: sends packets received on one card out of another, or out of the same one.
 *
 * The same card sends a packet from its receive buffer. Another card needs one copy: a page of memory belongs to one
 * device, since an IOMMU protects whole pages.
 */
import { DmaArgumentError } from 'dmapool';
import { checkBytes, checkInteger, checkSignal, type OptionNames, readOptions } from 'dmapool/arguments';
import type { E1000, Packet } from 'dmapool/drivers/e1000';
import { setImmediate as turn } from 'node:timers/promises';
import { checkCard, Watchdog } from './traffic.ts';

/** Options of {@link forward}. */
export interface ForwardOptions {
  /** Number of packets. Default: no limit. */
  readonly packets?: number;
  /** New destination address of each packet, 6 bytes. Default: its source address. */
  readonly destination?: Uint8Array;
  /** Packets in a batch, 1 to 1024. Default 64. */
  readonly batch?: number;
  /** Stops forwarding. */
  readonly signal?: AbortSignal;
}

/** Result of {@link forward}. */
export interface ForwardReport {
  /** Packets passed to the outgoing card. */
  readonly packets: number;
  /** Their bytes, without the Ethernet checksum. */
  readonly bytes: number;
}

const OPTIONS: OptionNames<ForwardOptions> = { packets: true, destination: true, batch: true, signal: true };
const MAX_BATCH = 1024;
/** Number of polls of an empty ring before the forwarder waits for an interrupt. */
const MAX_IDLE_POLLS = 64;

/**
 * Forwards packets. When the outgoing card can't keep up, the incoming one drops packets once its ring is full.
 *
 * @param from The incoming card.
 * @param to The outgoing card.
 * @param options Number of packets, destination, batch size and abort signal.
 * @throws `DmaArgumentError`; {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT` when no packet can be sent, or no buffer
 *   is free to receive one, for 5 seconds; errors of `receive` and `transmit`. Packets that no card owns are freed.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   netdevs: [0, 1].map((i) => ({ type: 'hubport', id: `net${i}`, hubid: 0 })),
 *   devices: [0, 1].map((i) => ({ driver: 'e1000', id: `nic${i}`, netdev: `net${i}` })),
 * });
 * const a = await E1000.open(await machine.open('nic0'));
 * const b = await E1000.open(await machine.open('nic1'));
 * const [sent, back] = await Promise.all([generate(a, { packets: 100 }), forward(b, b, { packets: 100 })]);
 * console.log(sent.packets === back.packets); // true
 * await machine.close();
 * ```
 */
export async function forward(from: E1000, to: E1000, options: ForwardOptions = {}): Promise<ForwardReport> {
  const { packets = Infinity, destination, batch: most = 64, signal } = readOptions('options', options, OPTIONS);
  if (packets !== Infinity && (!Number.isInteger(packets) || packets < 0)) {
    throw new DmaArgumentError('packets', packets, 'a whole number, 0 or more');
  }
  if (destination !== undefined) checkBytes('destination', destination, 6, 6);
  checkInteger('batch', most, 1, MAX_BATCH);
  checkSignal('signal', signal);
  checkCard('from', from);
  checkCard('to', to);
  const source = to.mac;
  const batch: Packet[] = [];
  const watchdog = new Watchdog(to.device.name);
  let forwarded = 0;
  let bytes = 0;
  let idle = 0;
  while (forwarded < packets && signal?.aborted !== true) {
    const count = from.receive(batch, Math.min(most, packets - forwarded));
    if (count === 0) {
      // Received packets wait for a buffer, which other code must free.
      if (from.starving) {
        await watchdog.turn('no buffer came free');
        continue;
      }
      watchdog.progress();
      // Poll first: an interrupt would add latency to each packet.
      if (++idle < MAX_IDLE_POLLS) await turn();
      else await sleep(from, signal);
      continue;
    }
    idle = 0;
    watchdog.progress();
    let done = 0;
    try {
      if (to !== from) await moveBatch(batch, count, to, watchdog);
      for (let i = 0; i < count; i++) {
        const { bytes: data, length } = batch[i]!;
        for (let k = 0; k < 6; k++) {
          data[k] = destination === undefined ? data[6 + k]! : destination[k]!;
          data[6 + k] = source[k]!;
        }
        bytes += length;
      }
      while (done < count) {
        const taken = to.transmit(batch, done, count);
        done += taken;
        if (taken > 0) watchdog.progress();
        if (done < count) await watchdog.turn('the card sent nothing');
      }
    } finally {
      for (let i = done; i < count; i++) batch[i]!.packets.free(batch[i]!);
    }
    forwarded += count;
    await turn();
  }
  return { packets: forwarded, bytes };
}

/** Replaces `batch[0..count)` with copies in buffers of the other card. */
async function moveBatch(batch: Packet[], count: number, to: E1000, watchdog: Watchdog): Promise<void> {
  for (let i = 0; i < count; i++) {
    const packet = batch[i]!;
    let copy = to.packets.tryAlloc();
    while (copy === null) {
      // All buffers are in flight or held by the user. Reading `transmitting` frees those that were sent.
      if (to.transmitting > 0) await watchdog.turn('the card sent nothing');
      else await watchdog.turn('no buffer came free');
      copy = to.packets.tryAlloc();
    }
    copy.bytes.set(packet.bytes);
    copy.length = packet.length;
    batch[i] = copy;
    packet.packets.free(packet);
  }
}

async function sleep(nic: E1000, signal: AbortSignal | undefined): Promise<void> {
  try {
    await nic.waitForPackets(signal === undefined ? {} : { signal });
  } catch (error) {
    // An abort is not a failure.
    if (signal?.aborted !== true || error !== signal.reason) throw error;
  }
}
