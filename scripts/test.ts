/**
 * `npm test`: runs all checks and tests, and prints a line with the time of each stage.
 *
 * With DMAPOOL_REQUIRE_TOOLS=1, as in CI, a test skipped for a missing tool is a failure.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { run } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const strict = process.env['DMAPOOL_REQUIRE_TOOLS'] === '1';
let failedStages = 0;

async function stage(name: string, action: () => boolean | Promise<boolean>): Promise<void> {
  const begin = performance.now();
  const ok = await action();
  if (!ok) failedStages++;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}, ${((performance.now() - begin) / 1000).toFixed(1)} s`);
}

function tool(name: string, ...args: string[]): boolean {
  const command = join(root, 'node_modules', '.bin', name);
  return spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0;
}

function testFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.js'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

const counts = { passed: 0, failed: 0, skipped: 0 };
/** What failed, printed once more at the end: logs are often cut to their last lines. */
const failures: string[] = [];

/** Runs each test file in its own process. Prints failures and the time of each file. */
function runTests(): Promise<boolean> {
  const times = new Map<string, number>();
  return new Promise((resolve) => {
    run({ files: testFiles(join(root, 'dist', 'test')), concurrency: 2, timeout: 900_000 })
      .on('test:pass', (test) => {
        if (test.nesting > 0) return;
        if (test.skip !== undefined) {
          counts.skipped++;
          console.log(`     skipped: ${test.name} (${String(test.skip)})`);
        } else {
          counts.passed++;
        }
        addTime(times, test.file, test.details.duration_ms);
      })
      .on('test:fail', (test) => {
        if (test.nesting > 0) return;
        counts.failed++;
        const file = test.file === undefined ? '' : ` (${relative(root, test.file)})`;
        const text = `     failed: ${test.name}${file}\n${indent(describeFailure(test.details.error))}`;
        console.log(text);
        failures.push(text);
        addTime(times, test.file, test.details.duration_ms);
      })
      .on('end', () => {
        for (const [file, time] of times) console.log(`     ${(time / 1000).toFixed(1).padStart(6)} s  ${file}`);
        resolve(counts.failed === 0 && (!strict || counts.skipped === 0));
      })
      .resume();
  });
}

function addTime(times: Map<string, number>, file: string | undefined, time: number): void {
  const name = file === undefined ? '(no file)' : relative(root, file);
  times.set(name, (times.get(name) ?? 0) + time);
}

function describeFailure(error: Error): string {
  const cause = error.cause;
  if (cause instanceof Error) return cause.stack ?? cause.message;
  return typeof cause === 'string' ? cause : (error.stack ?? error.message);
}

function indent(text: string): string {
  return text.replace(/^/gm, '       ');
}

await stage('format (prettier)', () => tool('prettier', '--check', '--log-level', 'warn', '.'));
await stage('lint (eslint)', () => tool('eslint', '.'));
await stage('imports (dependency-cruiser)', () => tool('depcruise', '--output-type', 'err-long', '.'));
await stage('unused code and dependencies (knip)', () => tool('knip'));
await stage('tests (node:test)', runTests);

for (const text of failures) console.log(text);
console.log(`${String(counts.passed)} passed, ${String(counts.failed)} failed, ${String(counts.skipped)} skipped`);
if (strict && counts.skipped > 0) console.log('DMAPOOL_REQUIRE_TOOLS=1: skipped tests are failures');
process.exitCode = failedStages === 0 ? 0 : 1;
