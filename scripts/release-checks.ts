/** What has to hold before a version is published; pure, so that each refusal can be tested. */

/** What is known of the working tree and of where we run. */
export interface ReleaseFacts {
  /** Parsed package.json. */
  readonly manifest: { readonly version: string; readonly repository?: unknown };
  /** Version in package-lock.json. */
  readonly lockedVersion: string;
  /** Text of CHANGELOG.md. */
  readonly changelog: string;
  /** Tags of the commit that is checked out. */
  readonly tags: readonly string[];
  /** What `git status --porcelain` prints: nothing if all is committed. */
  readonly changes: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** What stands in the way of a release, each with what to do about it. */
export function releaseProblems(facts: ReleaseFacts): string[] {
  const { manifest, lockedVersion, changelog, tags, changes, env } = facts;
  const { version, repository } = manifest;
  const problems: string[] = [];
  if (lockedVersion !== version) {
    problems.push(`package-lock.json is of version ${lockedVersion}, package.json of ${version}: npm install`);
  }
  if (changes !== '') problems.push(`not everything is committed:\n${changes.trimEnd()}`);
  if (!tags.includes(`v${version}`)) problems.push(`this commit is not tagged v${version}: git tag v${version}`);
  if (!new RegExp(`^## ${version.replaceAll('.', '\\.')} \\(\\d{4}-\\d{2}-\\d{2}\\)$`, 'm').test(changelog)) {
    problems.push(`CHANGELOG.md has no heading "## ${version} (YYYY-MM-DD)"`);
  }
  if (repository === undefined) {
    problems.push(
      'package.json names no repository, and npm accepts provenance only for one: npm pkg set repository=…',
    );
  }
  if (!mayProve(env)) {
    problems.push(
      'provenance is signed with the identity of a CI job: publish from GitHub Actions with `id-token: write`, ' +
        'or from GitLab CI with an id token SIGSTORE_ID_TOKEN for sigstore',
    );
  }
  return problems;
}

/** True in a CI job that npm can have provenance signed for. */
function mayProve(env: ReleaseFacts['env']): boolean {
  const given = (name: string): boolean => (env[name] ?? '') !== '';
  return (
    (given('GITHUB_ACTIONS') && given('ACTIONS_ID_TOKEN_REQUEST_URL')) ||
    (given('GITLAB_CI') && given('SIGSTORE_ID_TOKEN'))
  );
}
