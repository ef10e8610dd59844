/** Mutants of the readers of traces and of QEMU's protocols. */
import type { Mutant } from './mutant.ts';

const trace = (name: string, file: string, from: string, to: string): Mutant => ({
  name,
  target: 'trace',
  file: `src/trace/${file}`,
  from,
  to,
});
const qmp = (name: string, file: string, from: string, to: string): Mutant => ({
  name,
  target: 'qmp',
  file: `src/qemu/${file}`,
  from,
  to,
});

export const mutants: readonly Mutant[] = [
  trace('a limit is off by one', 'decode.ts', 'if (count > TRACE_LIMIT[limit])', 'if (count >= TRACE_LIMIT[limit])'),
  trace(
    'blocks of all pools share slots',
    'decode.ts',
    'slots.set(event.block, slot);',
    'slots.set(event.page, slot);',
  ),
  trace('names have no limit', 'line.ts', 'text.length > TRACE_LIMIT.name', 'text.length > TRACE_LIMIT.line'),
  trace('the header has no limit', 'reader.ts', 'this.#headerSize > TRACE_LIMIT.header', 'this.#headerSize < 0'),
  trace(
    'unsafe numbers pass',
    'line.ts',
    'if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(value))',
    "if (text === 'x')",
  ),
  trace('a line is cut where a chunk ends', 'lines.ts', "rest = parts.pop() ?? '';", "rest = '';"),
  trace(
    'damaged gzip data throws the error of zlib',
    'lines.ts',
    'if (!isGzipError(error)) throw error;',
    'throw error;',
  ),
  trace('a free is not counted', 'ledger.ts', 'this.frees++;', ''),
  trace('more pages than the kernel pass', 'compare.ts', 'if (pages > kernel.pages)', 'if (pages > kernel.pages + 1)'),
  trace(
    'rows created during a snapshot are not tracked',
    'moments.ts',
    'for (const row of rows) this.#rows.set(row.pool, row);',
    '',
  ),
  trace(
    'blocks are a byte larger',
    'fleet.ts',
    'const options = { size, align, boundary };',
    'const options = { size: size + 1, align, boundary };',
  ),

  qmp(
    'null is accepted as a message',
    'qmp.ts',
    'if (!isRecord(message)) this.#break',
    'if (message === undefined) this.#break',
  ),
  qmp(
    'an answer without a command is ignored',
    'qmp.ts',
    'if (pending === undefined || failed ===',
    'if (pending === undefined) return;\n    if (failed ===',
  ),
  qmp('a number is accepted as an event', 'qmp.ts', "typeof event !== 'string' || !isRecord(data)", '!isRecord(data)'),
  qmp('a line has no limit', 'lines.ts', 'rest.length + piece.length > limit', 'rest.length < 0'),
  qmp(
    'a line in several chunks loses its beginning',
    'lines.ts',
    "rest = end === -1 ? line : '';",
    "rest = end === -1 ? piece : '';",
  ),
  qmp('an interrupt line of any number is accepted', 'qtest.ts', 'Number(irq[2]) < INTERRUPT_LINES', 'true'),
  qmp(
    'any line of qtest is accepted as an answer',
    'qtest.ts',
    'if (word === undefined || this.#answered === this.#sent)',
    'if (this.#answered === this.#sent)',
  ),
  qmp('numbers of any width are accepted', 'bus.ts', 'value < 1n << BigInt(width)', 'value < 1n << 64n'),
  qmp(
    'fewer bytes than requested are accepted',
    'bus.ts',
    'reply.length === 4 * Math.ceil(length / 3) && bytes.length === length',
    'bytes.length <= length',
  ),
  qmp(
    'null is accepted as a PCI bus',
    'machine.ts',
    "if (!isRecord(bus) || !Array.isArray(bus['devices'])) return undefined;",
    "if (!Array.isArray((bus as { devices: unknown })['devices'])) return undefined;",
  ),
  qmp('a closed connection is not reported', 'lines.ts', "stream.once('end', close);", ''),
];
