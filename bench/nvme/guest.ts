/**
 * The guest's half of `npm run bench:vfio`; runs in the virtual machine as root. Measures the kernel's NVMe driver with
 * fio and ours through VFIO, in turns, on the same disk. Prints its findings as JSON.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { NvmeController, type NvmeNamespace } from 'dmapool/drivers/nvme';
import { bindToVfio, unbindFromVfio, VfioDevice } from 'dmapool/linux';
import type { InterruptOptions } from 'dmapool/pci';
import { profileOf, timeSharesOf } from './profile.ts';
import { readAtRandom } from './random-reads.ts';
import { BUSY_POLL, DEPTHS, type Findings, type Mode, MODES, type Profile, type Round, type Run } from './results.ts';

const ADDRESS = '0000:00:10.0';
const DISK = '/dev/nvme0n1';
const BYTES = 4096;
const MIB = 2 ** 20;
/** Sampling interval of the profiler in microseconds: samples are expensive without KVM. */
const SAMPLING = 1000;

const INTERRUPTS: Readonly<Record<Mode, InterruptOptions>> = {
  adaptive: {},
  interrupts: { busyPoll: 0 },
  'busy polling': { busyPoll: BUSY_POLL },
  polling: { kinds: ['poll'], pollInterval: 0 },
};

/** Requests a second of the kernel's driver, measured by fio with minimal overhead and without its startup. */
function fio(depth: number, seconds: number): number {
  const out = execFileSync(
    'fio',
    [
      ...['--name=bench', `--filename=${DISK}`, '--readonly', '--rw=randread', `--bs=${String(BYTES)}`],
      ...['--ioengine=libaio', '--direct=1', `--iodepth=${String(depth)}`, '--norandommap', '--gtod_reduce=1'],
      ...['--thread', '--time_based', `--runtime=${String(Math.round(seconds * 1000))}ms`, '--output-format=json'],
    ],
    { encoding: 'utf8' },
  );
  return (JSON.parse(out) as { jobs: { read: { iops: number } }[] }).jobs[0]!.read.iops;
}

/** Number of the disk's interrupts that the kernel has forwarded through VFIO. */
function interrupts(): number {
  let total = 0;
  for (const line of readFileSync('/proc/interrupts', 'utf8').split('\n')) {
    if (!line.includes(`vfio-msix`)) continue;
    // One column per CPU, then text.
    for (const column of line.split(':')[1]!.trim().split(/\s+/)) {
      if (!/^\d+$/.test(column)) break;
      total += Number(column);
    }
  }
  return total;
}

async function runOurs(disk: NvmeNamespace, depth: number, seconds: number): Promise<Run> {
  const switches = (): number => process.resourceUsage().voluntaryContextSwitches;
  const [interruptsBefore, switchesBefore] = [interrupts(), switches()];
  const { requests, seconds: elapsed, cpu } = await readAtRandom(disk, depth, BYTES, seconds);
  const cost = {
    user: cpu.user / requests,
    system: cpu.system / requests,
    interrupts: (interrupts() - interruptsBefore) / requests,
    switches: (switches() - switchesBefore) / requests,
  };
  return { rate: requests / elapsed, cost };
}

async function withOurs(mode: Mode, use: (disk: NvmeNamespace) => Promise<void>): Promise<void> {
  const vfio = await VfioDevice.open(ADDRESS, { memory: { size: 16 * MIB } });
  try {
    const nvme = await NvmeController.open(vfio.pci, { interrupts: INTERRUPTS[mode] });
    try {
      await use(await nvme.namespace(1));
    } finally {
      await nvme.close();
    }
  } finally {
    await vfio.close();
  }
}

async function toKernel(): Promise<void> {
  unbindFromVfio([ADDRESS]);
  for (let tries = 0; !existsSync(DISK); tries++) {
    if (tries === 500) throw new Error(`the kernel has no ${DISK}`);
    await setTimeout(20);
  }
}

const [seconds, rounds] = process.argv.slice(2).map(Number) as [number, number];
const found: { rounds: Round[]; profiles: Profile[] } = { rounds: [], profiles: [] };
for (let round = 0; round < rounds; round++) {
  await toKernel();
  const kernel = DEPTHS.map((depth) => fio(depth, seconds));
  bindToVfio([ADDRESS]);
  const ours: Record<Mode, Run[]> = { adaptive: [], interrupts: [], 'busy polling': [], polling: [] };
  for (const mode of MODES) {
    await withOurs(mode, async (disk) => {
      // Warm up. Without KVM the JavaScript engine takes seconds to compile.
      if (round === 0) await runOurs(disk, 8, 4 * seconds);
      for (const depth of DEPTHS) {
        await runOurs(disk, depth, seconds / 4);
        ours[mode].push(await runOurs(disk, depth, seconds));
      }
    });
  }
  found.rounds.push({ kernel, ours });
}
for (const mode of MODES) {
  await withOurs(mode, async (disk) => {
    for (const depth of DEPTHS) {
      await runOurs(disk, depth, seconds / 4);
      const profile = await profileOf(async () => {
        await runOurs(disk, depth, seconds);
      }, SAMPLING);
      found.profiles.push({ mode, depth, time: timeSharesOf(profile) });
    }
  });
}
await toKernel();
console.log(JSON.stringify(found satisfies Findings));
