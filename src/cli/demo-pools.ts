import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

import { tour } from '../../examples/demo/tour.ts';
import type { TourStep } from './demo-document.ts';
import type { CliIo } from './io.ts';
import { styleFor } from './style.ts';

/** Compiled examples beside this module. */
const EXAMPLES = new URL('../../examples/', import.meta.url);

const MORE: readonly (readonly [command: string, what: string])[] = [
  ['npx dmapool demo nvme', 'the NVMe driver on a QEMU disk (needs QEMU and the package koffi)'],
  ['npx dmapool demo ehci', 'the USB 2.0 driver on a QEMU disk'],
  ['npx dmapool demo e1000', 'the network driver: two QEMU cards'],
  ['npx dmapool layout --size 96 --align 32', 'how a page is cut into blocks'],
  ['npx dmapool replay', "the calls of a real driver, compared with the kernel's results"],
  ['npx dmapool top', 'the pools of a running program, live'],
];

const PROGRAMS: readonly (readonly [file: string, what: string])[] = [
  ['first-pool', 'the smallest program'],
  ['receive-ring', 'a receive ring, as a network card has'],
  ['pipeline', 'workers on one pool, one of them killed'],
  ['emulated-device', 'a device model behind the IOMMU, for tests'],
  ['direct-io', 'a file with O_DIRECT'],
  ['wasm-chain', 'JavaScript and WebAssembly on the same blocks'],
];

/** `dmapool demo`: a tour that needs nothing but the package. Prints its steps as text and returns them. */
export function demoPools(io: CliIo): TourStep[] {
  const style = styleFor(io.stdout, io.env);
  const write = (text: string): void => {
    io.stdout.write(`${text}\n`);
  };
  const steps: { heading: string; lines: string[]; reports: string[] }[] = [];
  const writeRows = (rows: readonly (readonly [string, string])[]): void => {
    const width = Math.max(...rows.map(([command]) => command.length));
    for (const [command, what] of rows) write(`   ${command.padEnd(width)}  ${what}`);
  };
  tour({
    heading: (text) => {
      steps.push({ heading: text, lines: [], reports: [] });
      write(`${steps.length === 1 ? '' : '\n'}${style.bold(`${String(steps.length)}. ${text}`)}`);
    },
    line: (text) => {
      steps.at(-1)!.lines.push(text);
      write(`   ${text}`);
    },
    report: (text) => {
      steps.at(-1)!.reports.push(text);
      for (const line of text.split('\n')) {
        write(`   ${style.bad('|')} ${shorten(line)}`);
        const source = sourceOf(line);
        if (source !== null) write(`   ${style.bad('|')} ${style.dim(`    > ${source}`)}`);
      }
    },
  });
  const folder = relative(process.cwd(), fileURLToPath(EXAMPLES));
  write(`\n${style.bold('What else there is')}`);
  writeRows(MORE);
  write(`\n   programs to copy (their sources are in ${folder.replace(/(^|\/)dist\//, '$1')}):`);
  writeRows(PROGRAMS.map(([file, what]) => [`node ${folder}/${file}.js`, what]));
  write('\n   guides: README.md and docs/ in the package');
  return steps;
}

/** Makes the absolute file names in a report relative to the current folder. */
function shorten(line: string): string {
  return line.replace(/\/\S+?(?=:\d+:\d+)/g, (file) => relative(process.cwd(), file));
}

/** The line of the program that a report names as the place of an allocation. */
function sourceOf(line: string): string | null {
  const { file, number } = /allocated at (?:\S+ \()?(?<file>\/.+?):(?<number>\d+):\d+/.exec(line)?.groups ?? {};
  if (file === undefined) return null;
  try {
    return readFileSync(file, 'utf8').split('\n')[Number(number) - 1]?.trim() ?? null;
  } catch {
    return null;
  }
}
