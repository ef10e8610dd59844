/** Text output of `dmapool replay`. */
import type { ReplayFile, ReplayMismatch, ReplayResult, ReplayRow, RowVerdict } from '../trace/index.ts';
import { count, plural, type Style, table } from './style.ts';

/** Minimum number of calls for which the time of a call is printed. */
const TIMED_CALLS = 10_000;

/** Marks between our row and the kernel's. */
const MARKS: Readonly<Record<RowVerdict, string>> = { same: '=', moment: '~', fewer: '<', differs: '!', alone: ' ' };

const LEGEND: readonly (readonly [RowVerdict, string])[] = [
  ['moment', "~  active was equal at another moment while the kernel's file was read"],
  ['fewer', '<  all equal, but we use fewer pages'],
  ['differs', '!  differs'],
];

/** The report on one trace. */
export function replayReport(result: ReplayResult, style: Style): string {
  const lines = [style.bold(result.trace), ...(result.kernel === null ? [] : [`  recorded on ${result.kernel}`]), ''];
  const width = columnWidth(result);
  for (const { label, files } of result.snapshots) {
    for (const file of files) lines.push(...sideBySide(label, file, width, style), '');
  }
  const verdicts = new Set(allFiles(result).flatMap((file) => file.rows.map((row) => row.verdict)));
  const legend = LEGEND.filter(([verdict]) => verdicts.has(verdict)).map(([, text]) => `  ${text}`);
  if (legend.length > 0) lines.push(...legend, '');
  lines.push(...conclusion(result, style).map((line) => `  ${line}`), '');
  return `${lines.join('\n')}\n`;
}

/** A line for each trace, and what the lines mean. */
export function replaySummary(results: readonly ReplayResult[], style: Style): string {
  const total = { events: 0, allocs: 0, differences: 0, pages: 0, kernelPages: 0 };
  const rows = results.map((result) => {
    const { events, allocs, mismatches } = result;
    const row = { events, allocs, differences: mismatches.length, ...pageTotals(result) };
    for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += row[key];
    return summaryRow(result.trace, row);
  });
  if (results.length > 1) rows.push(summaryRow('all', total));
  const [head = '', ...body] = table([
    ['trace', 'calls', 'blocks checked', 'differences', 'pages', "the kernel's"],
    ...rows,
  ]);
  return `${[style.bold(head), ...body, '', ...meaning(results, style)].join('\n')}\n`;
}

function summaryRow(
  name: string,
  row: Readonly<Record<'events' | 'allocs' | 'differences' | 'pages' | 'kernelPages', number>>,
): string[] {
  const { events, allocs, differences, pages, kernelPages } = row;
  return [name, ...[events, allocs, differences, pages, kernelPages].map(count)];
}

function meaning(results: readonly ReplayResult[], style: Style): string[] {
  const wrong = results.filter((result) => !isSuccess(result)).length;
  const compared = results.filter(hasKernel);
  const placed = compared.reduce((sum, result) => sum + result.placed, 0);
  const lines = [
    wrong === 0
      ? style.good(`${plural(results.length, 'trace')}: no error${compared.length > 0 ? ', no difference' : ''}.`)
      : style.bad(`${count(wrong)} of ${plural(results.length, 'trace')} not right.`),
    'Checked for every block: alignment, boundary, within one page, no overlap, zeroed if requested, contents kept until its free.',
  ];
  if (compared.length > 0)
    lines.push("Compared at every snapshot: the kernel's `pools` text (--snapshots prints both sides).");
  if (placed > 0) {
    lines.push(`Page and offset of ${plural(placed, 'block')} of Linux 6.4 and later: the same as the kernel's.`);
  }
  const fewer = results.flatMap(fewerPagesOf);
  if (fewer.length > 0)
    lines.push('', 'Where the kernel took more pages than ours:', ...fewer.map((line) => `  ${line}`));
  for (const { trace, notes } of results) lines.push(...notes.map((note) => `note: ${trace}: ${note}`));
  for (const { trace } of results.filter((result) => !hasKernel(result))) {
    lines.push(`note: ${trace}: no kernel output to compare with; see --expect`);
  }
  return lines;
}

/** One line for each reason in a trace. */
function fewerPagesOf(result: ReplayResult): string[] {
  const sums = new Map<string, { pages: number; kernelPages: number }>();
  for (const { pages, kernelPages, reasons } of result.pools) {
    if (pages >= kernelPages) continue;
    const reason = reasons.join('; ');
    const sum = sums.get(reason) ?? { pages: 0, kernelPages: 0 };
    sums.set(reason, { pages: sum.pages + pages, kernelPages: sum.kernelPages + kernelPages });
  }
  return [...sums].map(([reason, { pages, kernelPages }]) => {
    return `${result.trace}: ${count(kernelPages)} for ${count(pages)}: ${reason}`;
  });
}

function sideBySide(label: string, file: ReplayFile, width: number, style: Style): string[] {
  const ours = textLines(file.ours);
  const kernel = textLines(file.kernel);
  const heading = `${label}  ${file.device}`;
  const titles = `  ${heading.padEnd(width)}   ${kernel.length === 0 ? '' : 'the kernel'}`.trimEnd();
  const lines = Array.from({ length: Math.max(ours.length, kernel.length) }, (_, i) => {
    // The first line is the format version; rows follow.
    const row = file.rows[i - 1];
    const [mark, paint] = row === undefined ? [' ', (text: string) => text] : [MARKS[row.verdict], painter(row, style)];
    return `  ${paint(`${(ours[i] ?? '').padEnd(width)} ${mark} ${kernel[i] ?? ''}`.trimEnd())}`;
  });
  return [style.bold(titles), ...lines];
}

function painter(row: ReplayRow, style: Style): (text: string) => string {
  if (row.verdict === 'differs') return style.bad;
  return row.verdict === 'fewer' ? style.good : (text) => text;
}

function textLines(text: string | null): string[] {
  return text === null ? [] : text.replace(/\n$/, '').split('\n');
}

/** Width of our longest line in all snapshots, so that all tables align. */
function columnWidth(result: ReplayResult): number {
  const lines = allFiles(result).flatMap((file) => textLines(file.ours));
  return Math.max(34, ...lines.map((line) => line.length));
}

function allFiles(result: ReplayResult): ReplayFile[] {
  return result.snapshots.flatMap((snapshot) => snapshot.files);
}

function conclusion(result: ReplayResult, style: Style): string[] {
  const { events, creates, allocs, frees, destroys, failures, mismatches } = result;
  const { pages, kernelPages } = pageTotals(result);
  const lines = [
    `${plural(events, 'call')}: ${plural(creates, 'create')}, ${plural(allocs, 'alloc')}, ` +
      `${plural(frees, 'free')}, ${plural(destroys, 'destroy')}`,
    isSuccess(result)
      ? style.good(`no error on any block${hasKernel(result) ? ', no difference to the kernel' : ''}`)
      : style.bad(
          `${plural(failures, 'error')}, ${plural(mismatches.length - callMismatches(mismatches), 'difference')}`,
        ),
    ...mismatches.map((mismatch) => style.bad(`  ${mismatchText(mismatch)}`)),
    ...(events < TIMED_CALLS ? [] : [speed(result)]),
    `${plural(pages, 'page')} at most, the kernel ${count(kernelPages)}`,
    ...fewerPages(result).map((line) => `  ${line}`),
    ...result.notes.map((note) => `note: ${note}`),
  ];
  if (!hasKernel(result)) lines.push('note: no kernel output to compare with; see --expect');
  return lines;
}

/** Time of a call. */
function speed({ events, runsNs, elapsedNs, medianNs }: ReplayResult): string {
  const best = `${nsPerCall(elapsedNs, events)} ns a call`;
  if (runsNs.length === 1) return best;
  return `${best}, the best of ${count(runsNs.length)} replays; median ${nsPerCall(medianNs, events)}`;
}

/** True if nothing failed and nothing differs. */
export function isSuccess({ failures, mismatches }: ReplayResult): boolean {
  return failures === 0 && mismatches.length === 0;
}

function hasKernel(result: ReplayResult): boolean {
  return allFiles(result).some((file) => file.kernel !== null);
}

/** Number of mismatches at calls, which count as errors already. */
function callMismatches(mismatches: readonly ReplayMismatch[]): number {
  return mismatches.filter((mismatch) => mismatch.snapshot === null).length;
}

function mismatchText({ snapshot, device, pool, field, ours, kernel }: ReplayMismatch): string {
  if (snapshot === null) return `${device} ${pool}: ${field}: ${String(ours)}`;
  const value = ours === null ? 'missing here' : `${String(ours)}, the kernel's ${String(kernel)}`;
  return `${snapshot} ${device} ${pool}: ${field}: ${value}`;
}

/** Lines for pools with fewer pages than the kernel's, and the reasons. Merges equal pools (a driver loaded twice). */
function fewerPages(result: ReplayResult): string[] {
  const seen = new Map<string, { times: number; reasons: readonly string[] }>();
  for (const { device, name, pages, kernelPages, reasons } of result.pools) {
    if (pages >= kernelPages) continue;
    const text = `${device} ${name}: ${count(pages)} for ${count(kernelPages)}`;
    const entry = seen.get(text);
    seen.set(text, { times: (entry?.times ?? 0) + 1, reasons });
  }
  return [...seen].map(([text, { times, reasons }]) => {
    return `${text}${times > 1 ? ` (${count(times)} times)` : ''}; ${reasons.join('; ')}`;
  });
}

function pageTotals(result: ReplayResult): { pages: number; kernelPages: number } {
  const sum = (pick: 'pages' | 'kernelPages'): number => result.pools.reduce((total, pool) => total + pool[pick], 0);
  return { pages: sum('pages'), kernelPages: sum('kernelPages') };
}

function nsPerCall(ns: number, calls: number): string {
  return (ns / calls).toLocaleString('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
}
