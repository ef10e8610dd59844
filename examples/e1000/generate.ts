/** A packet generator, like ixy-pktgen: sends numbered packets of random sizes at full speed. */
import { DmaArgumentError } from 'dmapool';
import { checkBytes, checkFunction, checkSignal, type OptionNames, readOptions } from 'dmapool/arguments';
import type { E1000, Packet } from 'dmapool/drivers/e1000';
import { setImmediate as turn } from 'node:timers/promises';
import { checkCard, fillPacket, MAX_BYTES, MIN_BYTES, sizeOf, Watchdog } from './traffic.ts';

/** Options of {@link generate}. */
export interface GenerateOptions {
  /** Number of packets, 0 to 2^32-1. Default: 2^32-1. */
  readonly packets?: number;
  /** Minimum bytes of a packet, without the Ethernet checksum: 60 (the default) to 1514. */
  readonly minSize?: number;
  /** Maximum bytes of a packet, up to 1514, the default. */
  readonly maxSize?: number;
  /** Number of the stream, 0 (the default) to 65535; distinguishes senders. */
  readonly stream?: number;
  /** Destination address, 6 bytes. Default: broadcast. */
  readonly destination?: Uint8Array;
  /**
   * Returns the number of packets that the receiver has processed. The sender then stays at most `window` packets
   * ahead. Nothing else slows the sender down: a slow receiver loses packets. The window must be smaller than the
   * receive ring by at least 64.
   */
  readonly acknowledged?: () => number;
  /** Default 256. */
  readonly window?: number;
  /** Packets in a batch, 1 to 1024. Default 64. */
  readonly batch?: number;
  /** Stops sending. */
  readonly signal?: AbortSignal;
  /** Called after each batch with the number of packets sent. */
  readonly onProgress?: (sent: number) => void;
}

/** Result of {@link generate}. */
export interface GenerateReport {
  /** Packets sent. */
  readonly packets: number;
  /** Their bytes, without the Ethernet checksum. */
  readonly bytes: number;
}

const OPTIONS: OptionNames<GenerateOptions> = {
  packets: true,
  minSize: true,
  maxSize: true,
  stream: true,
  destination: true,
  acknowledged: true,
  window: true,
  batch: true,
  signal: true,
  onProgress: true,
};
const BROADCAST = new Uint8Array(6).fill(0xff);
const MAX_PACKETS = 2 ** 32 - 1;
const MAX_BATCH = 1024;

/**
 * Sends packets that a {@link TrafficMeter} can check. Resolves when all are sent.
 *
 * @param nic The card.
 * @param options Number, sizes, destination and pacing of the packets.
 * @throws `DmaArgumentError`; {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT` after 5 seconds without progress; errors
 *   of `transmit` and `drain`. Packets that the card does not own are then freed.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['e1000,id=nic0'] });
 * const pci = await machine.open('nic0');
 * const nic = await E1000.open(pci);
 * const { packets } = await generate(nic, { packets: 1000, minSize: 60, maxSize: 60 });
 * console.log(packets); // 1000
 * await nic.close();
 * await pci.close();
 * await machine.close();
 * ```
 */
export async function generate(nic: E1000, options: GenerateOptions = {}): Promise<GenerateReport> {
  const { packets, minSize, maxSize, stream, destination, window, batch: most, ...rest } = check(options);
  const { acknowledged, signal, onProgress } = rest;
  checkCard('nic', nic);
  const source = nic.mac;
  const batch: Packet[] = [];
  const watchdog = new Watchdog(nic.device.name);
  let sent = 0;
  let bytes = 0;
  while (sent < packets && signal?.aborted !== true) {
    const credit = acknowledged === undefined ? most : acknowledged() + window - sent;
    const wanted = Math.min(most, packets - sent, credit);
    let count = 0;
    while (count < wanted) {
      const packet = nic.packets.tryAlloc();
      if (packet === null) break;
      const size = sizeOf(stream, sent + count, minSize, maxSize);
      fillPacket(packet, size, stream, sent + count, destination, source);
      batch[count++] = packet;
    }
    let done = 0;
    try {
      while (done < count) {
        const taken = nic.transmit(batch, done, count);
        for (let i = done; i < done + taken; i++) bytes += batch[i]!.length;
        done += taken;
        sent += taken;
        if (taken > 0) watchdog.progress();
        if (done < count) await watchdog.turn('the card sent nothing');
      }
    } finally {
      nic.packets.freeBatch(batch, done, count);
    }
    onProgress?.(sent);
    if (count > 0) {
      await turn();
      continue;
    }
    // No buffer is free, or the window is used up. Reading `transmitting` frees the buffers of sent packets.
    if (nic.transmitting === 0 && wanted > 0) await watchdog.turn('no buffer came free');
    else await watchdog.turn('the receiver acknowledged nothing');
  }
  await nic.drain();
  return { packets: sent, bytes };
}

type WithDefault = 'packets' | 'minSize' | 'maxSize' | 'stream' | 'destination' | 'window' | 'batch';

function check(options: GenerateOptions): GenerateOptions & Required<Pick<GenerateOptions, WithDefault>> {
  const given = readOptions('options', options, OPTIONS);
  const { packets = MAX_PACKETS, minSize = MIN_BYTES, maxSize = MAX_BYTES, stream = 0 } = given;
  const { destination = BROADCAST, window = 256, batch = 64, acknowledged, signal, onProgress } = given;
  const ranges: readonly (readonly [string, number, number, number])[] = [
    ['packets', packets, 0, MAX_PACKETS],
    ['minSize', minSize, MIN_BYTES, MAX_BYTES],
    ['maxSize', maxSize, minSize, MAX_BYTES],
    ['stream', stream, 0, 0xffff],
    ['window', window, 1, MAX_PACKETS],
    ['batch', batch, 1, MAX_BATCH],
  ];
  for (const [name, value, low, high] of ranges) {
    if (!Number.isInteger(value) || value < low || value > high) {
      throw new DmaArgumentError(name, value, `from ${String(low)} to ${String(high)}`);
    }
  }
  checkBytes('destination', destination, 6, 6);
  if (acknowledged !== undefined) checkFunction('acknowledged', acknowledged);
  if (onProgress !== undefined) checkFunction('onProgress', onProgress);
  checkSignal('signal', signal);
  return { ...given, packets, minSize, maxSize, stream, destination, window, batch };
}
