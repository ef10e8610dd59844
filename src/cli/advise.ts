/** `dmapool advise`: what geometry, limit, reserve and magazine a pool's traffic needs. */
import type { Command } from 'commander';

import type { PoolSnapshot } from '../observe/index.ts';
import { decodeTrace, type DecodedTrace, DmaTraceError } from '../trace/index.ts';
import { type Advice, adviseTrace, type PoolAdvice } from './advice.ts';
import { CliExit, type CliIo, EXIT, fileErrorMessage } from './io.ts';
import { parseCount } from './numbers.ts';
import { snapshotOf } from './observed.ts';
import { printable } from './ps.ts';
import { recordProcess } from './record.ts';
import { count, plural, styleFor } from './style.ts';

interface AdviseFlags {
  readonly seconds: number;
  readonly json?: true;
}

/** Adds `dmapool advise`. */
export function registerAdvise(program: Command, io: CliIo): void {
  program
    .command('advise')
    .summary('say what settings the traffic of pools needs')
    .description(
      'Say what geometry, limit, reserve and magazine the traffic of pools needs, with the figures that say so: of a trace, ' +
        'or of a running process, which is recorded for a few seconds.',
    )
    .argument('<trace|pid>', 'file of a trace, or number of a process')
    .option('--seconds <n>', 'how long a process is recorded', parseCount(1, 3600), 5)
    .option('--json', 'print a JSON document')
    .addHelpText('after', '\nExample:\n  $ dmapool advise traces/6.12/nvme.trace.gz')
    .action(async (what: string, { seconds, json }: AdviseFlags) => {
      const found = /^[1-9]\d*$/.test(what) ? await adviseProcess(Number(what), seconds) : await adviseFile(what);
      if (json === true) io.stdout.write(`${JSON.stringify(found)}\n`);
      else print(found, io);
    });
}

async function adviseFile(file: string): Promise<PoolAdvice[]> {
  let trace: DecodedTrace;
  try {
    trace = await decodeTrace(file);
  } catch (error) {
    if (error instanceof DmaTraceError) throw new CliExit(EXIT.usage, error.message);
    const message = fileErrorMessage(error);
    if (message === null) throw error;
    throw new CliExit(EXIT.usage, `${file}: ${message}`);
  }
  return adviseTrace(trace);
}

/** The recording, and what the pools count since they were created. */
async function adviseProcess(pid: number, seconds: number): Promise<PoolAdvice[]> {
  const text = await recordProcess(pid, { seconds, limit: 2 ** 18 });
  const found = adviseTrace(await decodeTrace(new TextEncoder().encode(text)));
  const { devices } = await snapshotOf(pid);
  return found.map((each) => {
    const device = devices.find(({ name, thread }) => thread === 0 && name === each.device);
    const pool = device?.pools.find(({ name }) => name === each.name);
    return pool === undefined
      ? each
      : { ...each, advice: [...lifeAdvice(pool), ...each.advice.map((a) => raised(a, pool))] };
  });
}

/** The limit must hold what the pool needed before it was recorded, too. */
function raised(advice: Advice, { highWater, blocksPerPage, maxBlocks }: PoolSnapshot): Advice {
  if (advice.about !== 'limit') return advice;
  const limit = Math.ceil((highWater * 1.25) / blocksPerPage) * blocksPerPage;
  const change = maxBlocks !== null && maxBlocks >= limit ? null : `maxBlocks: ${count(limit).replaceAll(',', '')}`;
  return {
    ...advice,
    change,
    evidence:
      `at most ${plural(highWater, 'block')} at one time since it was created; a quarter more, in whole pages` +
      (maxBlocks === null ? '; there is no limit now' : `; the limit is ${count(maxBlocks)} now`),
  };
}

function lifeAdvice({
  failures,
  waits,
  waitTimes,
  maxBlocks,
  highWater,
  corrupted,
  quarantined,
}: PoolSnapshot): Advice[] {
  const found: Advice[] = [];
  if (failures > 0 || waits > 0) {
    const atLimit = maxBlocks !== null && highWater >= maxBlocks;
    found.push({
      about: 'limit',
      change: atLimit
        ? 'a higher maxBlocks, or fewer blocks held: it is too small'
        : 'a larger memory source: it is exhausted',
      evidence:
        `${plural(failures, 'allocation')} failed and ${plural(waits, 'call')} waited, ` +
        `${count(waitTimes.sum)} ms in all; most blocks at one time: ${count(highWater)}` +
        (maxBlocks === null ? '' : ` of ${count(maxBlocks)}`),
    });
  }
  if (corrupted > 0) {
    found.push({
      about: 'holder',
      change: 'a device or driver writes to blocks after their free: the log has each place',
      evidence: `${plural(corrupted, 'time')} a free block was found changed; ${plural(quarantined, 'block')} in quarantine`,
    });
  }
  return found;
}

function print(found: readonly PoolAdvice[], io: CliIo): void {
  const { bold, dim } = styleFor(io.stdout, io.env);
  if (found.length === 0) io.stdout.write('No pool was used.\n');
  for (const { device, name, figures, advice } of found) {
    const { allocations, frees, peak, burst } = figures;
    io.stdout.write(
      `${bold(`${printable(device)} ${printable(name)}`)}  ${plural(allocations, 'allocation')}, ${plural(frees, 'free')}, ` +
        `peak ${count(peak)}, burst ${count(burst)}\n`,
    );
    for (const { about, change, evidence } of advice) {
      io.stdout.write(`  ${about.padEnd(9)} ${change ?? 'right as it is'}\n            ${dim(evidence)}\n`);
    }
    io.stdout.write('\n');
  }
}
