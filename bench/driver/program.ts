/**
 * One load on one driver, in a process of its own; prints a {@link Measurement} as JSON. Started by `npm run
 * bench:driver` with the name of the load.
 */
import { E1000, type Packet } from 'dmapool/drivers/e1000';
import { NvmeController } from 'dmapool/drivers/nvme';
import { PciFunction } from 'dmapool/pci';
import { setImmediate } from 'node:timers/promises';
import { median } from '../../src/cli/speed.ts';
import { CollectionWatch, usedHeapBytes } from '../ours/garbage.ts';
import { profileOf, timeSharesOf } from '../nvme/profile.ts';
import { BareE1000 } from './bare-e1000.ts';
import { InstantE1000, PACKET_BYTES } from './instant-e1000.ts';
import { InstantNvme } from './instant-nvme.ts';
import { type E1000Load, isE1000, type Load, LOADS, type Measurement, type NvmeLoad } from './loads.ts';

const BLOCK = 4096;
const BURST = 64;
/** Requests a repetition: few enough for no collection in most of them, with a young generation of 64 MiB. */
const REQUESTS = 20_000;
const WARM_UP = 15;
const REPETITIONS = 25;
const PROFILED = 10 * REQUESTS;

/** Makes `count` requests. */
type Run = (count: number) => Promise<void>;

async function openNvme({ depth, form, polling }: NvmeLoad): Promise<{ run: Run; end: () => Promise<void> }> {
  const backend = new InstantNvme();
  const pci = await PciFunction.open(backend);
  backend.target = pci.device;
  const interrupts = polling ? ({ kinds: ['poll'], pollInterval: 0 } as const) : { kinds: ['msix' as const] };
  const nvme = await NvmeController.open(pci, { queueDepth: 128, interrupts });
  const disk = await nvme.namespace(1);
  const blocks = BLOCK / disk.blockSize;
  const buffers = Array.from({ length: depth }, () => new Uint8Array(BLOCK));
  const memory = buffers.map(() => pci.device.allocCoherent(BLOCK)!);
  const lbas = new Array<number>(depth).fill(0);
  let left = 0;
  const read =
    form === 'copied'
      ? (i: number) => disk.read((left & 0xffff) * blocks, buffers[i]!)
      : (i: number) => disk.readDma((left & 0xffff) * blocks, memory[i]!);
  const loop = async (i: number): Promise<void> => {
    while (left-- > 0) await read(i);
  };
  return {
    run: async (count) => {
      left = count;
      if (form === 'bulk') {
        for (; left > 0; left -= depth) {
          for (let i = 0; i < depth; i++) lbas[i] = ((left - i) & 0xffff) * blocks;
          await disk.readDmaBulk(lbas, memory);
        }
        return;
      }
      await Promise.all(buffers.map((_, i) => loop(i)));
    },
    end: async () => {
      await nvme.close();
      for (const one of memory) pci.device.freeCoherent(one);
      await pci.close();
    },
  };
}

async function openE1000({ bare, forward }: E1000Load): Promise<{ run: Run; end: () => Promise<void> }> {
  const backend = new InstantE1000();
  const pci = await PciFunction.open(backend);
  backend.target = pci.device;
  if (bare) return openBare(backend, pci, forward);
  const card = await E1000.open(pci);
  const packets: Packet[] = [];
  return {
    run: async (count) => {
      for (let left = count; left > 0;) {
        const got = card.receive(packets, Math.min(BURST, left));
        if (got === 0) await setImmediate();
        else if (!forward) card.packets.freeBatch(packets, 0, got);
        else if (card.transmit(packets, 0, got) < got) throw new Error('the transmit ring is full');
        left -= got;
      }
    },
    end: async () => {
      await card.close();
      await pci.close();
    },
  };
}

function openBare(backend: InstantE1000, pci: PciFunction, forward: boolean): { run: Run; end: () => Promise<void> } {
  const card = new BareE1000(backend, pci.device);
  const buffers = new Int32Array(BURST);
  return {
    run: async (count) => {
      for (let left = count; left > 0;) {
        const got = card.receive(buffers, Math.min(BURST, left));
        if (got === 0) await setImmediate();
        else if (forward) card.transmit(buffers, got, PACKET_BYTES);
        else card.free(buffers, got);
        left -= got;
      }
    },
    end: () => pci.close(),
  };
}

async function measure(load: Load): Promise<Measurement> {
  const { run, end } = isE1000(load) ? await openE1000(load) : await openNvme(load);
  using watch = new CollectionWatch();
  const rates: number[] = [];
  const garbage: number[] = [];
  for (let i = 0; i < WARM_UP; i++) await run(REQUESTS);
  const cpu = process.cpuUsage();
  const spans: { readonly begin: number; readonly end: number; readonly growth: number }[] = [];
  for (let i = 0; i < REPETITIONS; i++) {
    await setImmediate();
    const heap = usedHeapBytes();
    const begin = performance.now();
    await run(REQUESTS);
    const finish = performance.now();
    spans.push({ begin, end: finish, growth: usedHeapBytes() - heap });
    rates.push(REQUESTS / ((finish - begin) / 1000));
  }
  const { user, system } = process.cpuUsage(cpu);
  await watch.settle();
  for (const { begin, end: finish, growth } of spans) {
    if (!watch.collectedWithin(begin, finish)) garbage.push(growth / REQUESTS);
  }
  const shares = timeSharesOf(await profileOf(() => run(PROFILED)));
  await end();
  return {
    rate: median(rates),
    best: Math.max(...rates),
    cpu: ((user + system) * 1000) / (REPETITIONS * REQUESTS),
    garbage: garbage.length === 0 ? null : median(garbage),
    shares,
  };
}

const load = LOADS.find(({ name }) => name === process.argv[2]);
if (load === undefined) throw new Error(`unknown load ${String(process.argv[2])}`);
console.log(JSON.stringify(await measure(load)));
