/** `dmapool advise`: recommends geometry, limit, reserve and magazine for the traffic of pools. */
import type { Command } from 'commander';

import type { PoolSnapshot } from '../observe/index.ts';
import { decodeTrace, type DecodedTrace, DmaTraceError, readTrace } from '../trace/index.ts';
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
    .summary('recommend settings for the traffic of pools')
    .description(
      'Recommend geometry, limit, reserve and magazine for the traffic of pools, with the figures behind each ' +
        'recommendation. Reads a trace, or records a running process for a few seconds.',
    )
    .argument('<trace|pid>', 'file of a trace, or number of a process')
    .option('--seconds <n>', 'duration of the recording of a process', parseCount(1, 3600), 5)
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
  let sites: ReadonlyMap<number, string>;
  try {
    trace = await decodeTrace(file);
    sites = await sitesOf(trace, file);
  } catch (error) {
    if (error instanceof DmaTraceError) throw new CliExit(EXIT.usage, error.message);
    const message = fileErrorMessage(error);
    if (message === null) throw error;
    throw new CliExit(EXIT.usage, `${file}: ${message}`);
  }
  return adviseTrace(trace, sites);
}

/** The sites of a trace's allocs, by line number. Empty without sites. */
async function sitesOf(trace: DecodedTrace, source: string | Uint8Array): Promise<ReadonlyMap<number, string>> {
  const { fields } = trace.header;
  const sites = new Map<number, string>();
  if (!fields.has('site 1')) return sites;
  for await (const event of readTrace(source)) {
    if (event.type !== 'alloc' || event.site === undefined) continue;
    const site = fields.get(`site ${String(event.site)}`);
    if (site !== undefined) sites.set(event.line, site);
  }
  return sites;
}

/** Combines the recording with the figures of the pools since their creation. */
async function adviseProcess(pid: number, seconds: number): Promise<PoolAdvice[]> {
  const text = await recordProcess(pid, { seconds, limit: 2 ** 18 });
  const bytes = new TextEncoder().encode(text);
  const trace = await decodeTrace(bytes);
  const found = adviseTrace(trace, await sitesOf(trace, bytes));
  const { devices } = await snapshotOf(pid);
  return found.map((each) => {
    const pool = devices
      .filter(({ name }) => name === each.device)
      .flatMap(({ pools }) => pools)
      .find(({ name }) => name === each.name);
    return pool === undefined
      ? each
      : { ...each, advice: [...lifeAdvice(pool), ...each.advice.map((a) => raised(a, pool))] };
  });
}

/** The advice on the limit, with the peak since the pool's creation. */
function raised(advice: Advice, { highWater, blocksPerPage, maxBlocks }: PoolSnapshot): Advice {
  if (advice.about !== 'limit') return advice;
  const limit = Math.ceil((highWater * 1.25) / blocksPerPage) * blocksPerPage;
  const change = maxBlocks !== null && maxBlocks >= limit ? null : `maxBlocks: ${count(limit).replaceAll(',', '')}`;
  return {
    ...advice,
    change,
    evidence:
      `at most ${plural(highWater, 'block')} at one time since the pool's creation; a quarter more, in whole pages` +
      (maxBlocks === null ? '; no limit is set' : `; the limit is ${count(maxBlocks)}`),
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
        ? 'a higher maxBlocks, or fewer blocks held: the limit is too small'
        : 'a larger memory source: the source is exhausted',
      evidence:
        `${plural(failures, 'allocation')} failed and ${plural(waits, 'call')} waited, ` +
        `${count(waitTimes.sum)} ms in all; most blocks at one time: ${count(highWater)}` +
        (maxBlocks === null ? '' : ` of ${count(maxBlocks)}`),
    });
  }
  if (corrupted > 0) {
    found.push({
      about: 'holder',
      change: 'fix the device or driver that writes to freed blocks: the log has each site',
      evidence: `${plural(corrupted, 'time')} a free block was found modified; ${plural(quarantined, 'block')} in quarantine`,
    });
  }
  return found;
}

function print(found: readonly PoolAdvice[], io: CliIo): void {
  const { bold, dim } = styleFor(io.stdout, io.env);
  if (found.length === 0) io.stdout.write('The trace has no calls.\n');
  for (const { device, name, figures, advice } of found) {
    const { allocations, frees, peak, burst } = figures;
    io.stdout.write(
      `${bold(`${printable(device)} ${printable(name)}`)}  ${plural(allocations, 'allocation')}, ${plural(frees, 'free')}, ` +
        `peak ${count(peak)}, burst ${count(burst)}\n`,
    );
    for (const { about, change, evidence } of advice) {
      io.stdout.write(`  ${about.padEnd(9)} ${change ?? 'no change'}\n            ${dim(evidence)}\n`);
    }
    io.stdout.write('\n');
  }
}
