/** A version can be published only when it is complete. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ReleaseFacts, releaseProblems } from '../../scripts/release-checks.ts';

const ready: ReleaseFacts = {
  manifest: { version: '1.2.0', repository: { type: 'git', url: 'git+https://example.com/dmapool.git' } },
  lockedVersion: '1.2.0',
  changelog: '# Changelog\n\n## 1.2.0 (2027-01-31)\n\nMore.\n',
  tags: ['v1.2.0'],
  changes: '',
  env: { GITHUB_ACTIONS: 'true', ACTIONS_ID_TOKEN_REQUEST_URL: 'https://example.com/token' },
};

test('a complete version can be published, from either CI', () => {
  assert.deepEqual(releaseProblems(ready), []);
  assert.deepEqual(releaseProblems({ ...ready, env: { GITLAB_CI: 'true', SIGSTORE_ID_TOKEN: 'x' } }), []);
});

const refusals: readonly (readonly [string, Partial<ReleaseFacts>, RegExp])[] = [
  ['the lock file has another version', { lockedVersion: '1.1.0' }, /package-lock\.json has version 1\.1\.0/],
  [
    'there are uncommitted changes',
    { changes: ' M src/index.ts\n' },
    /there are uncommitted changes:\n M src\/index\.ts/,
  ],
  ['the commit is not tagged', { tags: ['v1.1.0', ''] }, /git tag v1\.2\.0/],
  ['the change log has no date', { changelog: '## 1.2.0 (not released yet)\n' }, /"## 1\.2\.0 \(YYYY-MM-DD\)"/],
  ['the change log has another version', { changelog: '## 1x2.0 (2027-01-31)\n' }, /"## 1\.2\.0/],
  ['package.json names no repository', { manifest: { version: '1.2.0' } }, /names no repository/],
  ['it is published outside CI', { env: {} }, /id-token: write/],
  ['the job has no identity', { env: { GITHUB_ACTIONS: 'true' } }, /id-token: write/],
];

for (const [name, facts, expected] of refusals) {
  test(`refused when ${name}`, () => {
    const problems = releaseProblems({ ...ready, ...facts });
    assert.equal(problems.length, 1);
    assert.match(problems[0]!, expected);
  });
}
