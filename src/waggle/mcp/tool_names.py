# SPDX-License-Identifier: Apache-2.0
"""The names that models use for tools with another name here, and the tool that does the same.

Pure. The names come from the agents whose tools models were trained with (Claude Code, Codex,
Gemini CLI, Cursor, Cline, OpenHands, LangChain, other sandboxes). `WAYS` is the table;
`waggle.mcp.errors` calls `meant` for a tool that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_LONGEST = 100
_PREFIX = re.compile(r"^.*(?:__|[./:])")
"""The prefix that clients add to a tool's name, as in mcp__waggle__execute."""
_SHELL = 'execute with language "shell"'
_USES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "bash sh zsh shell terminal console cmd powershell command commands exec process computer "
        "run_shell run_bash bash_tool run_command run_cmd run_commands run_terminal run_script "
        "run_terminal_cmd run_terminal_command run_in_terminal run_shell_command execute_command "
        "execute_shell execute_bash execute_bash_command execute_shell_command execute_terminal "
        "exec_command exec_shell exec_bash shell_command shell_exec local_shell local_shell_call "
        "container_exec process_exec unified_exec bash_command terminal_execute execute_cmd "
        "run_process start_process ssh sudo delete remove rm delete_file remove_file move_file mv "
        "copy_file cp rename rename_file mkdir create_directory make_directory create_folder chmod",
        (_SHELL, "run_command"),
    ),
    (
        "execute python python3 ipython py run_python run_python_code execute_python "
        "execute_python_code python_repl python_repl_ast python_interpreter python_exec "
        "code_interpreter code_execution code_exec code run_code execute_code exec_code run eval "
        "repl interpreter jupyter notebook run_cell execute_cell run_jupyter_cell "
        "execute_ipython_cell "
        "run_program run_file execute_file sandbox_run run_in_sandbox code_runner code_sandbox",
        ("execute", "run_code"),
    ),
    (
        "javascript js node nodejs typescript run_javascript run_js run_node run_javascript_code "
        "execute_javascript execute_js js_repl",
        ('execute with language "javascript"',),
    ),
    (
        "web_fetch webfetch fetch fetch_url http_request http_get curl wget download browse "
        "browser browser_navigate open_url url_fetch git git_clone clone_repository",
        (f"{_SHELL} and curl or git",),
    ),
    (
        "write write_to_file create_file new_file make_file save save_file put_file fs_write "
        "file_write filesystem_write add_file touch create_text_file write_text_file "
        "upload upload_file upload_files",
        ("write_file",),
    ),
    (
        "edit multi_edit str_replace str_replace_editor str_replace_based_edit_tool text_editor "
        "editor apply_patch patch patch_file apply_diff diff replace replace_in_file "
        "replace_string_in_file search_replace search_and_replace find_and_replace insert "
        "insert_edit_into_file insert_content modify_file update_file update change_file fs_edit "
        "file_edit notebook_edit edit_notebook multi_replace_string_in_file",
        ("edit_file; read_file shows a file, write_file makes one",),
    ),
    (
        "read view view_file view_image open open_file cat get_file get_file_contents show_file "
        "fs_read file_read read_text_file read_media_file read_many_files read_multiple_files "
        "read_files load_file head tail less download_file download_files download_from_sandbox",
        ("read_file",),
    ),
    (
        "ls list list_dir list_directory list_folder list_directory_contents directory_list dir "
        "directory_tree tree list_directory_tree view_directory read_directory readdir fs_list "
        "get_files list_code_definition_names",
        ("list_files",),
    ),
    (
        "grep rg ripgrep glob find find_files search search_file search_files search_text "
        "search_file_content search_code grep_search file_search glob_file_search codebase_search "
        "text_search search_in_files",
        ("search_files", f"{_SHELL} and grep or find"),
    ),
    (
        "pip pip_install npm npm_install apt apt_get apt_install install install_package "
        "install_dependencies install_deps install_library install_python_package "
        "install_packages_pip add_package add_packages uv uv_add setup_environment",
        ("install_packages",),
    ),
    (
        "bash_output get_output read_output get_command_output get_terminal_output task_output "
        "command_status check_command_status read_process_output get_job job_status get_task "
        "get_background_output wait wait_job wait_for list_jobs list_processes ps "
        "list_background_processes list_sessions_processes",
        ("read_job",),
    ),
    (
        "write_stdin send_input send_stdin write_to_process send_to_process write_process "
        "interact_with_process send_keys send_command_input write_input input_job send_to_terminal "
        "write_to_terminal",
        ("write_job",),
    ),
    (
        "kill kill_shell kill_bash kill_process kill_job kill_terminal kill_command stop_process "
        "terminate_process force_terminate cancel_job interrupt task_stop stop_job",
        ("read_job with kill",),
    ),
    (
        "create create_sandbox new_sandbox start_sandbox open_sandbox sandbox sandbox_create "
        "create_vm start_vm new_vm create_machine create_container start_container run_container "
        "create_session new_session start_session create_workspace create_instance launch start "
        "spawn new_environment start_environment make_environment sandbox_initialize",
        ("create_environment",),
    ),
    (
        "list_sandboxes list_vms list_machines list_containers list_sessions list_workspaces "
        "list_instances get_environments get_sandboxes sandboxes environments",
        ("list_environments",),
    ),
    (
        "status info get_status get_info sandbox_status get_sandbox describe inspect "
        "describe_environment inspect_environment environment_info environment_status "
        "get_environment get_metrics",
        ("get_environment", "list_environments"),
    ),
    (
        "destroy terminate shutdown delete_sandbox kill_sandbox "
        "stop_sandbox destroy_sandbox close_sandbox remove_sandbox terminate_sandbox delete_vm "
        "stop_vm destroy_vm delete_container stop_container remove_container close_session "
        "delete_session end_session delete_environment remove_environment stop_environment "
        "kill_environment close_environment terminate_environment",
        ("destroy_environment",),
    ),
    (
        "get_host get_url get_preview_url get_preview_link preview preview_url open_port "
        "port_forward forward_port expose publish_port share_port get_port_url",
        ("expose_port",),
    ),
    ("checkpoint snapshot save_state create_snapshot", ("snapshot_environment",)),
    ("fork clone duplicate_environment clone_environment", ("fork_environment",)),
    ("pause suspend hibernate pause_sandbox", ("pause_environment",)),
    ("resume wake unpause resume_sandbox", ("resume_environment",)),
    (
        "restart reboot reset restart_sandbox reboot_sandbox restart_vm reboot_vm restart_machine "
        "restart_container reset_sandbox reset_environment reboot_environment",
        ("restart_environment",),
    ),
    ("restore revert rollback restore_snapshot", ("rollback_environment",)),
    ("set_timeout extend keep_alive keepalive extend_timeout", ("extend_environment",)),
)
"""Names, and the ways to do the same; the first one whose tool is offered is used."""


def _letters(name: str) -> str:
    """Return a name in a form that ignores spelling variants; `run-shell_Tool` is runshell."""
    letters = re.sub(r"[^a-z0-9]", "", _PREFIX.sub("", name[:_LONGEST]).lower())
    shorter = letters.removeprefix("waggle").removesuffix("tool")
    return shorter or letters


WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    _letters(name): ways for names, ways in _USES for name in names.split()
}
"""The ways to do the same, by the letters of the called name."""


def meant(name: str, offered: Collection[str]) -> str:
    """Return the way to do the same with a tool in `offered`; empty if there is none.

    An offered tool that is only spelt differently comes first, then the table.
    """
    letters = _letters(name)
    same = [tool for tool in offered if _letters(tool) == letters]
    ways = (_offered(way, offered) for way in WAYS.get(letters, ()))
    return same[0] if same else next(filter(None, ways), "")


def _offered(way: str, offered: Collection[str]) -> str:
    """Return the way, without its addition unless all of it is offered; empty without the tool."""
    first, _, _ = way.partition("; ")
    if first.partition(" ")[0] not in offered:
        return ""
    return way if set(re.findall(r"\b\w+_file\b", way)) <= set(offered) else first
