/** `dmapool demo e1000`: two network cards on one hub. */
import { E1000, type Packet } from '../../drivers/e1000/index.ts';
import { forward } from '../../examples/e1000/forward.ts';
import { generate } from '../../examples/e1000/generate.ts';
import { TrafficMeter } from '../../examples/e1000/traffic.ts';
import { QemuMachine } from '../qemu/index.ts';
import type { DemoMeasurement, DemoResult } from './demo-document.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { ProgressBar } from './style.ts';

const PACED_PACKETS = 200_000;
const UNPACED_PACKETS = 50_000;
const ECHOED_PACKETS = 100_000;

/** Runs both directions at once, then one direction without pacing, then an echo. Checks every packet. */
export async function demoE1000(io: CliIo): Promise<DemoResult> {
  const bar = new ProgressBar(io.stderr);
  const machine = await QemuMachine.start({
    netdevs: [0, 1].map((i) => ({ type: 'hubport', id: `net${String(i)}`, hubid: 0 })),
    devices: [0, 1].map((i) => ({ driver: 'e1000', id: `nic${String(i)}`, netdev: `net${String(i)}` })),
  });
  try {
    const functions = await Promise.all(['nic0', 'nic1'].map((id) => machine.open(id)));
    const [a, b] = (await Promise.all(functions.map((pci) => E1000.open(pci)))) as [E1000, E1000];
    for (const nic of [a, b]) {
      if (!(await nic.waitForLink())) throw new CliExit(EXIT.failure, `${nic.device.name}: no link`);
      const { speed, fullDuplex } = await nic.link();
      const duplex = fullDuplex ? 'full' : 'half';
      io.stdout.write(`${nic.device.name}  82540EM  ${nic.macAddress}  ${String(speed)} Mb/s, ${duplex} duplex\n`);
    }
    const measurements = [
      await bothWays(a, b, io, bar),
      await withoutPacing(a, b, io, bar),
      await thereAndBack(a, b, io, bar),
    ];
    await printStatistics([a, b], io);
    const pools: string[] = [];
    for (const nic of [a, b]) {
      const text = nic.device.readAttribute('pools') ?? '';
      pools.push(text);
      io.stdout.write(`\n${nic.device.name}\n${text}`);
      await nic.close();
      if (nic.packets.active !== 0) throw new CliExit(EXIT.failure, `${nic.device.name}: buffers leaked`);
    }
    for (const pci of functions) await pci.close();
    io.stdout.write('\nBoth cards are closed; all buffers are free.\n');
    return { devices: functions.map(({ address }) => address), measurements, pools };
  } finally {
    bar.clear();
    await machine.close();
  }
}

/** Each card sends to the other, paced by its receiver: no packet may be lost. */
async function bothWays(a: E1000, b: E1000, io: CliIo, bar: ProgressBar): Promise<DemoMeasurement> {
  const packets = PACED_PACKETS;
  const meters = [new TrafficMeter(0), new TrafficMeter(1)] as const;
  const done = (): boolean => meters.every((meter) => meter.packets >= packets);
  const onProgress = (): void => {
    bar.show('both ways', (meters[0].packets + meters[1].packets) / (2 * packets));
  };
  // QEMU's cards receive nothing in their first second.
  await Promise.all([firstPacket(a, b), firstPacket(b, a)]);
  const begin = performance.now();
  await Promise.all([
    generate(a, { packets, stream: 0, acknowledged: () => meters[0].packets, onProgress }),
    generate(b, { packets, stream: 1, acknowledged: () => meters[1].packets, onProgress }),
    receive(b, meters[0], done),
    receive(a, meters[1], done),
  ]);
  bar.clear();
  const result = print(io, 'both ways at once, paced', meters, 2 * packets, performance.now() - begin);
  check(meters, packets, true);
  return result;
}

/** One card sends; the other starts to receive at the end. Sequence numbers reveal the losses. */
async function withoutPacing(a: E1000, b: E1000, io: CliIo, bar: ProgressBar): Promise<DemoMeasurement> {
  const packets = UNPACED_PACKETS;
  const meter = new TrafficMeter(2);
  const onProgress = (sent: number): void => {
    bar.show('without pacing', sent / packets);
  };
  const begin = performance.now();
  await generate(a, { packets, stream: 2, onProgress });
  let idle = performance.now();
  await receive(b, meter, (got) => {
    if (got > 0) idle = performance.now();
    return performance.now() - idle > 100;
  });
  bar.clear();
  const result = print(io, 'one way, without pacing', [meter], packets, idle - begin, false);
  check([meter], packets, false);
  return result;
}

/** One card sends; the other forwards the packets in their receive buffers. */
async function thereAndBack(a: E1000, b: E1000, io: CliIo, bar: ProgressBar): Promise<DemoMeasurement> {
  const packets = ECHOED_PACKETS;
  const meter = new TrafficMeter(3);
  const onProgress = (): void => {
    bar.show('there and back', meter.packets / packets);
  };
  const begin = performance.now();
  await Promise.all([
    generate(a, { packets, stream: 3, destination: b.mac, acknowledged: () => meter.packets, onProgress }),
    forward(b, b, { packets }),
    receive(a, meter, () => meter.packets >= packets),
  ]);
  bar.clear();
  const result = print(io, 'forwarded without a copy', [meter], packets, performance.now() - begin);
  check([meter], packets, true);
  return result;
}

/** Receives and checks packets until `done` returns true; its argument is the size of the last batch. */
async function receive(nic: E1000, meter: TrafficMeter, done: (got: number) => boolean): Promise<void> {
  const batch: Packet[] = [];
  for (;;) {
    const got = nic.receive(batch, 64);
    for (let i = 0; i < got; i++) meter.count(batch[i]!);
    nic.packets.freeBatch(batch, 0, got);
    if (done(got)) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function firstPacket(from: E1000, to: E1000): Promise<void> {
  await generate(from, { packets: 1 });
  if (!(await to.waitForPackets({ timeout: 10_000 }))) {
    throw new CliExit(EXIT.failure, `${to.device.name}: received nothing within 10 s`);
  }
  const batch: Packet[] = [];
  to.packets.freeBatch(batch, 0, to.receive(batch, 1));
}

function print(
  io: CliIo,
  title: string,
  meters: readonly TrafficMeter[],
  sent: number,
  milliseconds: number,
  showsSpeed = true,
): DemoMeasurement {
  const total = { packets: 0, bytes: 0, changed: 0 };
  for (const meter of meters) {
    const { packets, bytes, changed } = meter.report();
    total.packets += packets;
    total.bytes += bytes;
    total.changed += changed;
  }
  const seconds = milliseconds / 1000;
  const count = (value: number): string => Math.round(value).toLocaleString('en-US');
  // Without pacing only the losses matter, not the speed.
  const speed = !showsSpeed
    ? 'found by sequence number'
    : `${count(total.packets / seconds)} packets/s, ${count((total.bytes * 8) / seconds / 1e6)} Mb/s`;
  const lost = `${count(sent - total.packets)} lost`;
  io.stdout.write(`${title.padEnd(26)} ${count(sent)} sent, ${lost}, ${count(total.changed)} changed; ${speed}\n`);
  return { name: title, seconds, bytes: total.bytes, operations: total.packets, lost: sent - total.packets };
}

/** Throws unless every packet is accounted for. */
function check(meters: readonly TrafficMeter[], sent: number, whole: boolean): void {
  for (const meter of meters) {
    const { packets, lost, changed, late, repeated } = meter.report(sent);
    if (changed > 0 || late > 0 || repeated > 0 || packets + lost !== sent || (whole && lost > 0)) {
      const what = `${String(lost)} lost, ${String(changed)} changed, ${String(late)} late, ${String(repeated)} repeated`;
      throw new CliExit(EXIT.failure, `packets did not arrive as they were sent: ${what}`);
    }
  }
}

async function printStatistics(nics: readonly E1000[], io: CliIo): Promise<void> {
  io.stdout.write('\n');
  for (const nic of nics) {
    const { sent, received, dropped, missedPackets, noBuffers } = await nic.statistics();
    io.stdout.write(
      `${nic.device.name}  ${String(sent)} sent, ${String(received)} received, ${String(dropped)} dropped, ` +
        `MPC ${String(missedPackets)}, RNBC ${String(noBuffers)}\n`,
    );
  }
}
