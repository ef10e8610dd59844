/** `dmapool top`: the pools of running processes as a live table. */
import type { Command } from 'commander';

import { observableProcesses, type PoolSnapshot, type Snapshot } from '../observe/index.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { formatBytes, formatDuration, parseCount } from './numbers.ts';
import { snapshotOf } from './observed.ts';
import { parsePid, printable } from './ps.ts';
import { count, styleFor } from './style.ts';

/** Timeout of a request in milliseconds. */
const TIMEOUT = 1000;

/** One line of the table. */
export interface TopRow {
  readonly pid: number;
  readonly device: string;
  readonly pool: string;
  readonly id: string;
  readonly blockSize: number;
  readonly active: number;
  readonly blocks: number;
  readonly limit: number | null;
  readonly highWater: number;
  readonly pages: number;
  readonly bytes: number;
  /** Allocations and failures per second since the previous snapshot; null in the first. */
  readonly rate: number | null;
  readonly failing: number | null;
  readonly waiting: number;
  readonly workers: number;
  /** True in debug mode. */
  readonly debug: boolean;
}

interface Column {
  readonly title: string;
  /** Key that sorts by this column. */
  readonly key: string;
  readonly left?: true;
  readonly value: (row: TopRow) => number | string;
  readonly text: (row: TopRow) => string;
}

/** Allocated blocks as a fraction of the limit; without a limit, of the blocks in all pages. */
function use({ active, blocks, limit }: TopRow): number {
  const most = limit ?? blocks;
  return most === 0 ? 0 : active / most;
}

const dash = (value: number | null, format: (value: number) => string = count): string =>
  value === null ? '-' : format(value);

const COLUMNS: readonly Column[] = [
  { title: 'PID', key: 'P', value: ({ pid }) => pid, text: ({ pid }) => String(pid) },
  { title: 'DEVICE', key: 'd', left: true, value: (row) => row.device, text: (row) => printable(row.device) },
  { title: 'POOL', key: 'n', left: true, value: (row) => row.pool, text: (row) => printable(row.pool) },
  { title: 'SIZE', key: 's', value: (row) => row.blockSize, text: (row) => String(row.blockSize) },
  { title: 'ACTIVE', key: 'a', value: (row) => row.active, text: (row) => count(row.active) },
  { title: 'BLOCKS', key: 'o', value: (row) => row.blocks, text: (row) => count(row.blocks) },
  { title: 'USE', key: 'u', value: use, text: (row) => `${String(Math.round(use(row) * 100))}%` },
  { title: 'PEAK', key: 'p', value: (row) => row.highWater, text: (row) => count(row.highWater) },
  { title: 'LIMIT', key: 'l', value: (row) => row.limit ?? Infinity, text: (row) => dash(row.limit) },
  { title: 'MEMORY', key: 'c', value: (row) => row.bytes, text: (row) => formatBytes(row.bytes) },
  { title: 'ALLOC/s', key: 'r', value: (row) => row.rate ?? -1, text: (row) => dash(row.rate) },
  { title: 'FAIL/s', key: 'f', value: (row) => row.failing ?? -1, text: (row) => dash(row.failing) },
  { title: 'WAIT', key: 'w', value: (row) => row.waiting, text: (row) => count(row.waiting) },
  { title: 'WRK', key: 'k', value: (row) => row.workers, text: (row) => count(row.workers) },
];

const HELP: readonly string[] = [
  'q  quit           space  refresh         R  reverse the order',
  '<  >              sort by the column to the left, to the right',
  ...COLUMNS.map(({ key, title }) => `${key}                 sort by ${title}`),
  '',
  'any key: back to the table',
];

/** The rows of snapshots. `before`: the previous snapshots by process, for the rates. */
export function topRows(seen: readonly Snapshot[], before: ReadonlyMap<string, Snapshot>): TopRow[] {
  return seen.flatMap((now) => {
    const then = before.get(String(now.process.pid));
    const seconds = then === undefined ? 0 : (now.time - then.time) / 1000;
    const earlier = new Map<string, PoolSnapshot>(
      then?.devices.flatMap(({ thread, pools }) => pools.map((pool) => [`${thread}.${pool.id}`, pool] as const)),
    );
    return now.devices.flatMap(({ name, pools, thread }) =>
      pools.map((pool): TopRow => {
        const id = `${thread}.${pool.id}`;
        const old = earlier.get(id);
        const rate = (figure: 'allocations' | 'failures'): number | null =>
          old === undefined || seconds <= 0 ? null : Math.max(0, (pool[figure] - old[figure]) / seconds);
        return {
          pid: now.process.pid,
          device: name,
          pool: pool.name,
          id,
          blockSize: pool.blockSize,
          active: pool.active,
          blocks: pool.blocks,
          limit: pool.maxBlocks,
          highWater: pool.highWater,
          pages: pool.pages,
          bytes: pool.pages * pool.pageBytes,
          rate: rate('allocations'),
          failing: rate('failures'),
          waiting: pool.waiting,
          workers: pool.workers.filter(({ state }) => state === 'attached').length,
          debug: pool.debug,
        };
      }),
    );
  });
}

interface TopFlags {
  readonly interval: number;
  readonly count?: number;
  readonly sort: string;
  readonly json?: true;
}

/** Adds `dmapool top`. */
export function registerTop(program: Command, io: CliIo): void {
  program
    .command('top')
    .summary('show the pools of running processes in a live table')
    .description(
      'Show the pools of running processes in a live table, by default of all that can be observed. Without a terminal, ' +
        'print the lines of each snapshot one after the other.',
    )
    .argument('[pid]', 'number of one process', parsePid)
    .option('-d, --interval <ms>', 'milliseconds between two snapshots', parseCount(100, 3_600_000), 1000)
    .option('-n, --count <n>', 'exit after this many snapshots', parseCount(1, 1_000_000))
    .option('-s, --sort <key>', `sort by: ${COLUMNS.map(({ key, title }) => `${key} ${title}`).join(', ')}`, 'r')
    .option('--json', 'print one line of JSON for each snapshot')
    .addHelpText('after', '\nIn a terminal, h shows the keys.')
    .action(async (pid: number | undefined, flags: TopFlags) => {
      if (!COLUMNS.some(({ key }) => key === flags.sort)) {
        throw new CliExit(EXIT.usage, `top: --sort ${flags.sort}: one of ${COLUMNS.map(({ key }) => key).join(' ')}`);
      }
      await new Top(io, pid, flags).run();
    });
}

class Top {
  readonly #io: CliIo;
  readonly #pid: number | undefined;
  readonly #flags: TopFlags;
  readonly #before = new Map<string, Snapshot>();
  readonly #live: boolean;
  #column: number;
  #reversed = false;
  #help = false;
  #rows: TopRow[] = [];
  #seen: readonly Snapshot[] = [];
  #quit = false;
  #wake: () => void = () => undefined;

  constructor(io: CliIo, pid: number | undefined, flags: TopFlags) {
    this.#io = io;
    this.#pid = pid;
    this.#flags = flags;
    this.#column = COLUMNS.findIndex(({ key }) => key === flags.sort);
    this.#live = io.stdout.isTTY && io.onKey !== undefined && flags.json === undefined;
  }

  async run(): Promise<void> {
    const { stdout } = this.#io;
    if (!this.#live) {
      await this.#follow();
      return;
    }
    const ignoreKeys = this.#io.onKey?.((key) => {
      this.#press(key);
    });
    const ignoreSize = stdout.onResize?.(() => {
      this.#draw();
    });
    // Alternate screen, cursor hidden.
    stdout.write('\u001b[?1049h\u001b[?25l');
    try {
      await this.#follow();
    } finally {
      stdout.write('\u001b[?25h\u001b[?1049l');
      ignoreSize?.();
      ignoreKeys?.();
    }
  }

  async #follow(): Promise<void> {
    const { count: most = Infinity, interval } = this.#flags;
    for (let taken = 1; !this.#quit; taken++) {
      await this.#update();
      if (this.#live) this.#draw();
      else this.#print(taken === 1);
      if (taken >= most) return;
      if (this.#quit) return;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, interval);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async #update(): Promise<void> {
    const pids = this.#pid === undefined ? await observableProcesses() : [this.#pid];
    const answers = await Promise.all(
      pids.map(async (pid) => {
        try {
          return [await snapshotOf(pid, TIMEOUT)];
        } catch (error) {
          // With one process there is nothing else to show.
          if (this.#pid !== undefined || !(error instanceof CliExit)) throw error;
          return [];
        }
      }),
    );
    this.#seen = answers.flat();
    this.#rows = topRows(this.#seen, this.#before);
    this.#before.clear();
    for (const seen of this.#seen) this.#before.set(String(seen.process.pid), seen);
  }

  #sorted(): TopRow[] {
    const { value } = COLUMNS[this.#column]!;
    // Numbers descending, texts ascending.
    const order = this.#reversed ? -1 : 1;
    return [...this.#rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (typeof x === 'string' || typeof y === 'string') return order * String(x).localeCompare(String(y));
      return x === y ? 0 : order * (x < y ? 1 : -1);
    });
  }

  #print(withHeading: boolean): void {
    const { stdout } = this.#io;
    if (this.#flags.json === true) {
      const pools = this.#sorted();
      stdout.write(`${JSON.stringify({ time: Math.max(0, ...this.#seen.map(({ time }) => time)), pools })}\n`);
      return;
    }
    const [heading, ...lines] = layOut(this.#sorted());
    stdout.write([...(withHeading ? [heading!] : []), ...lines, ''].join('\n'));
  }

  #press(key: string): void {
    const back = this.#help;
    this.#help = false;
    if (key === 'q' || key === '\u0003') {
      this.#quit = true;
      this.#wake();
      return;
    }
    const column = COLUMNS.findIndex((each) => each.key === key);
    if (back) {
      this.#draw();
      return;
    }
    if (key === 'h' || key === '?') this.#help = true;
    else if (key === ' ') this.#wake();
    else if (key === 'R') this.#reversed = !this.#reversed;
    else if (key === '<' || key === '\u001b[D') this.#column = Math.max(0, this.#column - 1);
    else if (key === '>' || key === '\u001b[C') this.#column = Math.min(COLUMNS.length - 1, this.#column + 1);
    else if (column >= 0) this.#column = column;
    else return;
    this.#draw();
  }

  #draw(): void {
    if (this.#quit) return;
    const { stdout, env } = this.#io;
    const { columns = 80, rows = 24 } = stdout;
    const { bold, dim } = styleFor(stdout, env);
    const { title } = COLUMNS[this.#column]!;
    const uptimes = this.#seen.map(({ process: { pid, uptime } }) => `${String(pid)} up ${formatDuration(uptime)}`);
    const bytes = this.#rows.reduce((sum, row) => sum + row.bytes, 0);
    const summary = [
      `dmapool top - ${uptimes.length === 0 ? 'no process can be observed' : uptimes.join(', ')}`,
      `${count(this.#rows.length)} pools, ${formatBytes(bytes)}; sorted by ${title}${this.#reversed ? ', reversed' : ''}; h: keys, q: quit`,
      '',
    ];
    const [heading, ...lines] = this.#help ? ['keys', ...HELP] : layOut(this.#sorted());
    const fit = (line: string): string => Array.from(line).slice(0, columns).join('');
    const shown = [bold(fit(summary[0]!)), dim(fit(summary[1]!)), '', bold(fit(heading!)), ...lines.map(fit)].slice(
      0,
      rows,
    );
    // Overwrites each line and erases the rest: clearing the whole screen would flicker.
    stdout.write(`\u001b[H${shown.map((line) => `${line}\u001b[K`).join('\r\n')}\u001b[J`);
  }
}

/** Lines of the table; the first is the heading. */
function layOut(rows: readonly TopRow[]): string[] {
  const cells = [COLUMNS.map(({ title }) => title), ...rows.map((row) => COLUMNS.map(({ text }) => text(row)))];
  const widths = COLUMNS.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  return cells.map((row) =>
    row
      .map((cell, i) => (COLUMNS[i]!.left === true ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  );
}
