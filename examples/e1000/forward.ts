/**
 * A forwarder, like ixy-fwd: what comes in at one card goes out at another, or at the same one.
 *
 * Back out at the same card a packet is never copied. To another card it is, once: a page of memory serves one device
 * only, for that is what an IOMMU can protect.
 */
import { DmaArgumentError } from 'dmapool';
import { checkBytes, checkInteger, checkSignal, type OptionNames, readOptions } from 'dmapool/arguments';
import type { E1000, Packet } from 'dmapool/drivers/e1000';
import { setImmediate as turn } from 'node:timers/promises';
import { checkCard, Watchdog } from './traffic.ts';

/** How to forward. */
export interface ForwardOptions {
  /** How many packets. Default: until the signal. */
  readonly packets?: number;
  /** New destination address of each packet, 6 bytes. Default: where it came from. */
  readonly destination?: Uint8Array;
  /** Packets moved at one time, 1 to 1024. Default 64. */
  readonly batch?: number;
  /** Ends the forwarding. */
  readonly signal?: AbortSignal;
}

/** What was forwarded. */
export interface ForwardReport {
  /** Packets that the outgoing card was given. */
  readonly packets: number;
  /** Their bytes, without Ethernet checksums. */
  readonly bytes: number;
}

const OPTIONS: OptionNames<ForwardOptions> = { packets: true, destination: true, batch: true, signal: true };
const MAX_BATCH = 1024;
/** After so many looks at an empty ring it is time to sleep until an interrupt. */
const PATIENCE = 64;

/**
 * Forwards packets. When the outgoing card can't keep up, they wait, and in the end the incoming one drops what comes.
 *
 * @param from Where packets come in.
 * @param to Where they go out.
 * @param options How many, until when, and to whom.
 * @throws `DmaArgumentError`; {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT` when nothing can be sent, or received for want of a
 *   buffer, for 5 seconds; what `receive` and `transmit` throw. Packets under way are free then.
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
    throw new DmaArgumentError('packets', packets, 'a whole number from 0 up');
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
      // What came waits for a buffer, which is somebody else's to free.
      if (from.starving) {
        await watchdog.turn('no buffer came free');
        continue;
      }
      watchdog.progress();
      // Looking costs nothing but this processor's time; interrupts cost time for each packet that is waited for.
      if (++idle < PATIENCE) await turn();
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

/** Puts copies of `batch[0..count)` in buffers of the other card in their place. */
async function moveBatch(batch: Packet[], count: number, to: E1000, watchdog: Watchdog): Promise<void> {
  for (let i = 0; i < count; i++) {
    const packet = batch[i]!;
    let copy = to.packets.tryAlloc();
    while (copy === null) {
      // All buffers are under way, or the user's; looking for those that are out frees them.
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
    // That it shall end is no failure.
    if (signal?.aborted !== true || error !== signal.reason) throw error;
  }
}
