/**
 * Runs before `npm publish`: checks the version, then runs all tests. With `--check` it only lists what is missing.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { releaseProblems, type ReleaseFacts } from './release-checks.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (name: string): string => readFileSync(join(root, name), 'utf8');
const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8' });

const problems = releaseProblems({
  manifest: JSON.parse(read('package.json')) as ReleaseFacts['manifest'],
  lockedVersion: (JSON.parse(read('package-lock.json')) as { version: string }).version,
  changelog: read('CHANGELOG.md'),
  tags: git('tag', '--points-at', 'HEAD').split('\n'),
  changes: git('status', '--porcelain'),
  env: process.env,
});
for (const problem of problems) console.log(`not ready: ${problem}`);

if (problems.length > 0) {
  process.exitCode = 1;
} else if (process.argv.includes('--check')) {
  console.log('ready to publish, if the tests pass');
} else {
  const env = { ...process.env, DMAPOOL_REQUIRE_TOOLS: '1' };
  process.exitCode = spawnSync('npm', ['test'], { cwd: root, env, stdio: 'inherit' }).status ?? 1;
}
