import { existsSync, readFileSync } from 'node:fs';

import { Command, CommanderError } from 'commander';

import { describeThrown } from '../arguments.ts';
import { DmaError } from '../index.ts';
import { registerAdvise } from './advise.ts';
import { registerBench } from './bench.ts';
import { registerDemo } from './demo.ts';
import { registerBind, registerDevices, registerUnbind } from './devices.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { registerLayout } from './layout.ts';
import { registerCat, registerMetrics, registerPs } from './ps.ts';
import { registerRecord } from './record.ts';
import { registerReplay } from './replay.ts';
import { registerTop } from './top.ts';
import { registerWeb } from './web.ts';

export { type CliIo, type CliStream, processIo } from './io.ts';

/** Adds a subcommand to the program. */
type Register = (program: Command, io: CliIo) => void;

/** The subcommands, in the order of the help. */
const COMMANDS: readonly Register[] = [
  registerReplay,
  registerLayout,
  registerBench,
  registerDemo,
  registerPs,
  registerTop,
  registerCat,
  registerMetrics,
  registerWeb,
  registerRecord,
  registerAdvise,
  registerDevices,
  registerBind,
  registerUnbind,
];

/**
 * Runs the command line.
 *
 * @param argv The arguments, without the interpreter and the script.
 * @returns The exit code: 0 success, 1 failure or difference, 2 usage error.
 *
 * @example
 * ```ts
 * process.exitCode = await run(process.argv.slice(2), processIo());
 * ```
 */
export async function run(argv: readonly string[], io: CliIo): Promise<number> {
  const program = createProgram(io);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return EXIT.success;
  } catch (error) {
    // commander has printed help, version or usage error.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.success : EXIT.usage;
    if (error instanceof CliExit) {
      if (error.message !== '') io.stderr.write(`dmapool: ${error.message}\n`);
      return error.exitCode;
    }
    if (error instanceof DmaError) {
      io.stderr.write(`dmapool: ${error.message}\n`);
      return EXIT.failure;
    }
    // A bug in this program: print the stack.
    io.stderr.write(
      `dmapool: internal error: ${error instanceof Error ? (error.stack ?? error.message) : describeThrown(error)}\n`,
    );
    return EXIT.failure;
  }
}

function createProgram(io: CliIo): Command {
  const program = new Command('dmapool')
    .description(
      "Linux's DMA pools in user space: watch running pools, replay recorded kernel traffic, show page layouts, bind devices to VFIO.",
    )
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .showHelpAfterError("Try 'dmapool --help'.")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        io.stdout.write(text);
      },
      writeErr: (text) => {
        io.stderr.write(text);
      },
      outputError: (text, write) => {
        write(text.replace(/^error: /, 'dmapool: '));
      },
      getOutHelpWidth: () => io.stdout.columns ?? 80,
      getErrHelpWidth: () => io.stderr.columns ?? 80,
    })
    .addHelpText('after', '\nExit status: 0 success, 1 failure or difference, 2 usage error.');
  for (const register of COMMANDS) register(program, io);
  return program;
}

/** The version in package.json: two directories above the sources, three above the build. */
function packageVersion(): string {
  for (const up of ['../../package.json', '../../../package.json']) {
    const url = new URL(up, import.meta.url);
    if (!existsSync(url)) continue;
    const { version } = JSON.parse(readFileSync(url, 'utf8')) as { version: string };
    return version;
  }
  return 'unknown';
}
